"""A comparison as a table on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genscale.comparison import Comparison, Scores
from genscale.intervals import Mean


def show(found: Comparison, console: Console) -> None:
    """Mean and 95 % interval of every score, and of the paired gain over the first entry."""
    first, judges = found.entries[0].name, list(found.entries[0].held_out)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(found.axis, overflow="fold")
    for head in ("NFE", "s"):
        table.add_column(head, justify="right", no_wrap=True)
    for name in (*([] if found.searched is None else [found.searched]), *(f"{j} (held out)" for j in judges)):
        table.add_column(name, justify="right", min_width=13)
        table.add_column("gain", justify="right", no_wrap=True)
    for row in found.rows:
        scores = ([] if found.searched is None else [row.searched]) + [row.held_out[j] for j in judges]
        cells = [text for s in scores for text in _cells(s)]
        spent = "" if row.nfe is None else f"{row.nfe:.0f}"
        table.add_row(Text(row.name), spent, "" if row.seconds is None else f"{row.seconds:.1f}", *cells)
    console.print(table)
    n = len(found.prompts)
    how = "mean ± 95 % interval over prompts" if n > 1 else "no intervals of one prompt"
    console.print(
        f"{n} prompts, seed {found.seed}; {how}; gain: paired, over {first}",
        style="dim", markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    for line in short(found):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    for name in found.files:
        console.print(f"{found.folder}/{name}", markup=False, highlight=False, soft_wrap=True)


def short(found: Comparison) -> list[str]:
    """Entries that spent clearly less than the most costly one: equal cost is then no more than a limit."""
    if found.axis == "budget":
        return []
    most = max(row.nfe or 0.0 for row in found.entries)
    return [
        f"{row.name} spent {row.nfe:.0f} of {most:.0f} NFE a prompt: its own options or rules ended it"
        for row in found.entries
        if row.nfe is not None and row.nfe < 0.8 * most
    ]


def _cells(scores: Scores | None) -> tuple[str, str]:
    if scores is None:
        return "", ""
    return scores.mean.text(), "" if scores.gain is None else _gain(scores.gain)


def _gain(gain: Mean) -> str:
    return gain.text(signed=True)
