"""Searched and held-out score against NFE, as an image, from what benchmarks/shapes.py --nfe wrote.

Gains are over best_of_n at the same budget, paired by prompt; bars are 95 % intervals over prompts. It also prints at
how many NFE each search reaches what best_of_n reaches at its larger budgets.

    python benchmarks/curves.py benchmarks/results/trees-flow.json docs/trees-flow.png
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

from shapes import interval

RIVAL = "best_of_n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("png", type=Path)
    options = parser.parse_args()
    rows = json.loads(options.json.read_text())["rows"]
    draw(rows, options.png)
    for rival in [r for r in rows if r["search"] == RIVAL][1:]:
        print(
            f"the searched score of {RIVAL} at {rival['nfe']} NFE is reached at", reached(rows, rival["nfe"])
        )
        for row in rows:
            if row["nfe"] < rival["nfe"] and row["search"] != RIVAL:
                mean, half = interval([a - b for a, b in zip(row["clip"], rival["clip"], strict=True)])
                print(f"    {row['search']} at {row['spent']:.0f}: {mean:+.4f} ± {half:.4f}")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("CLIP that steered", "its gain over best_of_n", "held-out judge: gain over best_of_n")
    rivals = {r["nfe"]: r for r in rows if r["search"] == RIVAL}
    rows = [r for r in rows if r["nfe"] in rivals]
    names = list(dict.fromkeys(r["search"] for r in rows))
    for k, name in enumerate(names):
        mine = sorted((r for r in rows if r["search"] == name), key=lambda r: r["nfe"])
        shift = 1.035 ** (k - len(names) / 2)  # so that bars do not hide each other
        curves = (
            [interval(r["clip"]) for r in mine],
            [interval(gain(r, rivals, "clip")) for r in mine],
            [interval(gain(r, rivals, "correct")) for r in mine],
        )
        for panel, curve in zip(panels, curves, strict=True):
            panel.errorbar(
                [r["spent"] * (1.0 if panel is panels[0] else shift) for r in mine],
                [mean for mean, _ in curve],
                None if panel is panels[0] else [half for _, half in curve],
                label=name, marker="o", markersize=3, linewidth=1.2, elinewidth=0.8, color=f"C{k}",
            )  # fmt: skip
    for panel, title in zip(panels, titles, strict=True):
        panel.set(xscale="log", xlabel="NFE a prompt", title=title)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def gain(row: dict[str, Any], rivals: dict[int, dict[str, Any]], what: str) -> list[float]:
    return [a - b for a, b in zip(row[what], rivals[row["nfe"]][what], strict=True)]


def reached(rows: list[dict[str, Any]], nfe: int) -> dict[str, int | None]:
    """By search, the NFE at which its mean curve, linear in log NFE between budgets, gets there; None: it does not."""
    goal = next(statistics.fmean(r["clip"]) for r in rows if r["search"] == RIVAL and r["nfe"] == nfe)
    found: dict[str, int | None] = {}
    for name in dict.fromkeys(r["search"] for r in rows):
        points = sorted((r["spent"], statistics.fmean(r["clip"])) for r in rows if r["search"] == name)
        found[name] = None
        for (x0, y0), (x1, y1) in pairwise(points):
            if y0 < goal <= y1:
                found[name] = round(math.exp(math.log(x0) + math.log(x1 / x0) * (goal - y0) / (y1 - y0)))
                break
    return found


if __name__ == "__main__":
    main()
