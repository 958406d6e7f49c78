"""The tables and the picture of docs/explanation/honest-verifiers.md, from what benchmarks/hacking.py wrote.

    python -m benchmarks.hacking_page docs/explanation/honest-verifiers.md docs/hacking.png \\
        benchmarks/results/hacking-*.json
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import interval, make_page
from genscale.numerics.turning_point import Turn, turn_of

BEGIN, END = "<!-- begin: measured -->", "<!-- end: measured -->"
FEW = 4  # the smaller N of the gain
DRAWN = {
    "clip": "CLIP alone", "count": "the counter alone", "red": "the head that likes red alone",
    "standardised sum": "standardised sum", "rank sum": "rank sum", "minimum": "minimum",
    "weights by category": "weights by category", "product of experts": "product of experts",
    "the judge itself": "the judge itself",
}  # fmt: skip
Row = dict[str, list[float]]


def sizes_of(rows: dict[str, Row]) -> list[str]:
    return list(next(iter(rows.values())))


def turned(row: Row) -> Turn | None:
    """Where the judge turns down, over the prompts; None where it does not beyond chance."""
    found = turn_of(np.array(list(row.values())).T.tolist())
    return found if found is not None and found.turned else None


def table(record: dict[str, Any], pool: dict[str, Any]) -> list[str]:
    """The judge at each N, the gain from 4 to the largest, and where it turns."""
    rows, n = pool["rows"], pool["prompts"]
    sizes = sizes_of(rows)
    last = sizes[-1]
    heads = [f"{record['model']}, {record['steps']} steps, {n} prompts", *(f"N = {size}" for size in sizes)]
    lines = [
        "| " + " | ".join([*heads, f"best of {last} less best of {FEW}", "turns down"]) + " |",
        "|---" * (len(sizes) + 3) + "|",
    ]
    for name, row in rows.items():
        mean, half = interval([b - a for a, b in zip(row[str(FEW)], row[last], strict=True)])
        gain = f"{mean:+.3f} ± {half:.3f}"
        turn = turned(row)
        where = (
            ""
            if turn is None
            else f"after {sizes[turn.peak]} ({sizes[turn.earliest]} to {sizes[turn.latest]})"
        )
        means = [f"{statistics.fmean(row[size]):.3f}" for size in sizes]
        lines.append("| " + " | ".join([name, *means, gain, where]) + " |")
    return [*lines, ""]


def scales(record: dict[str, Any]) -> list[str]:
    """What the development half says of the verifiers."""
    lines = [
        f"| {record['model']} | mean | sd | within a prompt | noise | noise, of the variance "
        "| agreement with the judge |",
        "|---|---|---|---|---|---|---|",
    ]
    for s, rho in zip(record["scales"], record["weights"]["all"], strict=True):
        numbers = [f"{s[name]:.3f}" for name in ("mean", "sd", "within", "noise", "noise_share")]
        lines.append("| " + " | ".join([s["name"], *numbers, f"{rho:.2f}"]) + " |")
    return [*lines, ""]


def page(records: list[dict[str, Any]]) -> str:
    """All tables of Markdown."""
    lines = [line for r in records for pool in r["pools"] for line in table(r, pool)]
    return "\n".join([*lines, *(line for r in records for line in scales(r))]).rstrip()


def write_page(path: Path, records: list[dict[str, Any]]) -> None:
    before, rest = path.read_text().split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{page(records)}\n\n{END}{rest.split(END)[1]}")


def draw(path: Path, records: list[dict[str, Any]]) -> None:
    """A panel a pool: the judge against N."""
    from matplotlib.figure import Figure

    pools = [(r, pool) for r in records for pool in r["pools"]]
    figure = Figure(figsize=(5.6 * len(pools), 4.9), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(pools), squeeze=False)[0]
    for axes, (record, pool) in zip(panels, pools, strict=True):
        for k, (name, label) in enumerate(DRAWN.items()):
            row = pool["rows"][name]
            mean, half = zip(*(interval(values) for values in row.values()), strict=True)
            alone, ceiling = k < 3, name == "the judge itself"
            axes.errorbar(
                [int(n) for n in row], mean, None if ceiling else half, label=label, marker="o", markersize=3,
                elinewidth=0.5, linestyle="--" if alone else ":" if ceiling else "-", color="k" if ceiling else None,
            )  # fmt: skip
            turn = turned(row)
            if turn is not None:
                axes.axvline(int(list(row)[turn.peak]), color=f"C{k}", linewidth=0.6, linestyle=":")
        axes.axhline(statistics.fmean(pool["rows"]["clip"]["1"]), color="0.8", linewidth=0.8)
        axes.set(xlabel="N, candidates of a prompt", ylabel="right, by the held-out judge")
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(n) for n in sizes_of(pool["rows"])], sizes_of(pool["rows"]))
        axes.set_title(f"{record['model']}, {record['steps']} steps, {pool['prompts']} hard prompts")
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    make_page(__doc__, write_page, draw)
