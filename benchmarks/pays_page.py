"""The tables and the picture of docs/explanation/what-pays.md, from what benchmarks/pays.py wrote.

python -m benchmarks.pays_page docs/explanation/what-pays.md docs/pays.png benchmarks/results/pays-*.json
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import interval, make_page
from benchmarks.pays import LARGEST, SIZES

BEGIN, END = "<!-- begin: measured -->", "<!-- end: measured -->"
ACROSS = 3  # panels
Row = dict[str, Any]


def spent(row: Row) -> float:
    return statistics.fmean(row["nfe"])


def within(rows: list[Row], nfe: float) -> Row:
    """The accept_reject row of the largest mean NFE that is at most `nfe`; the smallest where none is."""
    mine = sorted(
        (r for r in rows if r["name"].startswith("accept_reject,") and "pooled" not in r["name"]), key=spent
    )
    return [mine[0], *(r for r in mine if spent(r) <= nfe)][-1]


def reaching(rows: list[Row], rival: Row) -> Row | None:
    """The accept_reject row of the smallest mean NFE whose mean verdict is that of the rival or better."""
    wanted = statistics.fmean(rival["right"])
    mine = (r for r in rows if r["name"].startswith("accept_reject,") and "seconds" in r)
    found = [r for r in mine if "pooled" not in r["name"] and statistics.fmean(r["right"]) >= wanted]
    return min(found, key=spent, default=None)


def gained(row: Row, rival: Row) -> str:
    mean, half = interval([a - b for a, b in zip(row["right"], rival["right"], strict=True)])
    return f"{mean:+.3f} ± {half:.3f}"


def page(records: list[dict[str, Any]]) -> str:
    """Two tables of Markdown: against best_of_64 by CLIP, and against best_of_n with the same verifier."""
    about = [f"{r['model']}, {r['steps']} steps, {r['n']} {r['prompts']} prompts" for r in records]
    named = [{row["name"]: row for row in r["rows"]} for r in records]
    lines = [
        "| model and prompts | base | best of 64, CLIP | accept_reject at 1/20 of its NFE or less | at 1/8 or less |",
        "|---|---|---|---|---|",
    ]
    for title, record, rows in zip(about, records, named, strict=True):
        rival = rows[_largest_by_clip(record)]
        cells = [title, f"{statistics.fmean(rows['base']['right']):.3f}"]
        cells.append(f"{statistics.fmean(rival['right']):.3f} for {spent(rival):.0f} NFE")
        for share in (20, 8):
            cells.append(_cell(within(list(rows.values()), spent(rival) / share), rival))
        lines.append("| " + " | ".join(cells) + " |")
    sizes = SIZES[1:-1]
    heads = [
        f"best of {n} | accept_reject at its NFE or less | a perfect verifier, best of {n}" for n in sizes
    ]
    lines += ["", "| model and prompts | " + " | ".join(heads) + " |", "|---" * (1 + 3 * len(sizes)) + "|"]
    for title, rows in zip(about, named, strict=True):
        cells = [title]
        for n in sizes:
            rival = rows[f"best_of_{n}, calibrated"]
            perfect = statistics.fmean(rows[f"best_of_{n}, a perfect verifier"]["right"])
            cells.append(f"{statistics.fmean(rival['right']):.3f} for {spent(rival):.0f} NFE")
            cells += [_cell(within(list(rows.values()), spent(rival)), rival), f"{perfect:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| model and prompts | ECE | accepted | of them right | reaches best of 64, CLIP, at | of its NFE "
        "| of its seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for record, title, rows in zip(records, about, named, strict=True):
        rival = rows[_largest_by_clip(record)]
        row = within(list(rows.values()), spent(rival) / 8)
        least = reaching(list(rows.values()), rival)
        right = statistics.fmean(row["accepted"]) if row["accepted"] else float("nan")
        cells = [title, f"{record['reliability']['ece']:.3f}", f"{len(row['accepted'])} of {record['n']}"]
        cells.append(f"{right:.3f}")
        if least is None:
            cells += ["not reached", "", ""]
        else:
            seconds = record["seconds"][f"best_of_{LARGEST}"] / least["seconds"]
            cells += [f"{spent(least):.0f} NFE", f"1/{spent(rival) / spent(least):.0f}", f"1/{seconds:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *_pooled(about, named)])


def _pooled(about: list[str], named: list[dict[str, Row]]) -> list[str]:
    """A table of what sharing a budget between prompts adds, where it was measured."""
    lines = []
    for title, rows in zip(about, named, strict=True):
        for n in SIZES[1:-1]:
            shared, even = rows.get(f"best_of_n, {n} images, pooled"), rows[f"best_of_{n}, calibrated"]
            mine = rows.get(f"accept_reject, {n} images, pooled")
            if shared is None or mine is None:
                continue
            alone = within(list(rows.values()), spent(mine))
            cells = [
                title,
                f"{statistics.fmean(even['right']):.3f} for {spent(even):.0f} NFE",
                _cell(shared, even),
            ]
            cells += [
                f"{statistics.fmean(alone['right']):.3f} for {spent(alone):.0f} NFE",
                _cell(mine, alone),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    heads = ["model and prompts", "best of n", "the same, pooled", "accept_reject", "the same, pooled"]
    return ["", "| " + " | ".join(heads) + " |", "|---" * 5 + "|", *lines] if lines else []


def _largest_by_clip(record: dict[str, Any]) -> str:
    """The name of its row; records of before videos were measured do not say which CLIP it is."""
    return f"best_of_{LARGEST}, {record.get('clip', 'shapes_clip')}"


def _cell(row: Row, rival: Row) -> str:
    return f"{statistics.fmean(row['right']):.3f} for {spent(row):.0f} NFE ({gained(row, rival)})"


def write_page(path: Path, records: list[dict[str, Any]]) -> None:
    before, rest = path.read_text().split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{page(records)}\n\n{END}{rest.split(END)[1]}")


def draw(path: Path, records: list[dict[str, Any]]) -> None:
    """A panel a file: the judge against NFE a prompt."""
    from matplotlib.figure import Figure

    across = min(len(records), ACROSS)
    down = -(-len(records) // across)
    figure = Figure(figsize=(5.2 * across, 3.8 * down + 0.4), dpi=110, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel in panels[len(records) :]:
        panel.set_axis_off()
    for panel, record in zip(panels, records, strict=False):
        for label, wanted in CURVES.items():
            rows = sorted(
                (statistics.fmean(r["nfe"]), *interval(r["right"]))
                for r in record["rows"]
                if wanted(r["name"])
            )
            if rows:
                nfe, mean, half = zip(*rows, strict=True)
                perfect, style = "perfect" in label, ":" if "previews" in label else "--"
                panel.errorbar(
                    nfe, mean, None if perfect else half, label=label, marker="o", markersize=3, elinewidth=0.6,
                    linestyle=style if perfect else "-", color="0.6" if perfect else None,
                )  # fmt: skip
        panel.set(xscale="log", xlabel="NFE a prompt", ylabel="right, by the held-out judge")
        panel.set_title(f"{record['model']}, {record['steps']} steps, {record['prompts']} prompts")
        panel.grid(alpha=0.3)
    shown = {}
    for panel in panels:  # not every curve is in every panel
        handles, labels = panel.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    named = [label for label in CURVES if label in shown]
    figure.legend(
        [shown[label] for label in named],
        named,
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


CURVES: dict[str, Callable[[str], bool]] = {
    "best of N, CLIP": lambda name: name == "base" or name.endswith("_clip"),
    "best of N, calibrated": lambda name: name == "base" or name.endswith(", calibrated"),
    "accept_reject": lambda name: name.startswith("accept_reject,") and name.endswith("images"),
    "accept_reject, pooled": lambda name: name.startswith("accept_reject,") and name.endswith("pooled"),
    "best of N, perfect verifier": lambda name: name == "base" or name.endswith(", a perfect verifier"),
    "accept and reject, perfect verifier and previews": lambda name: name.endswith("verifier and previews"),
}


if __name__ == "__main__":
    make_page(__doc__, write_page, draw)
