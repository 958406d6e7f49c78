"""A comparison as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genscale.results.comparison import Comparison, ScoreSummary


def print_comparison(found: Comparison, console: Console) -> None:
    """A table for each score: mean with 95 % interval, and the paired gain over the first entry with its own."""
    if found.searched is not None:
        console.print(_table(found, f"{found.searched} (searched)", [row.searched for row in found.rows]))
    for judge in found.entries[0].held_out:
        console.print(_table(found, f"{judge} (held out)", [row.held_out[judge] for row in found.rows]))
    if any(row.diversity is not None for row in found.rows):
        console.print(_table(found, "diversity of the best (Vendi)", [row.diversity for row in found.rows]))
    n = len(found.prompts)
    how = "mean with 95 % interval over prompts" if n > 1 else "one prompt gives no interval"
    for line in (
        f"{n} prompt{'' if n == 1 else 's'}, seed {found.seed}; {how}",
        f"gain: paired by prompt, over {found.entries[0].name}",
        *short(found),
        *(f"{turn.curve}: {turn.text()}" for turn in found.turns if turn.turned),
    ):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    for name in found.files:
        console.print(f"{found.folder}/{name}", markup=False, highlight=False, soft_wrap=True)


def _table(found: Comparison, title: str, scores: Sequence[ScoreSummary | None]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(found.axis, overflow="fold", min_width=12)
    for head in ("NFE", "s", title, "gain"):
        table.add_column(head, justify="right", no_wrap=head != title)
    for row, score in zip(found.rows, scores, strict=True):
        mean = "" if score is None else score.mean.text()
        gain = "" if score is None or score.gain is None else score.gain.text(signed=True)
        spent = "" if row.nfe is None else f"{row.nfe:.0f}"
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        table.add_row(Text(row.name), spent, seconds, mean, gain)
    return table


def short(found: Comparison) -> list[str]:
    """Entries that spent clearly less than the most costly one, so that costs are not equal."""
    if found.axis == "budget":
        return []
    most = max(row.nfe or 0.0 for row in found.entries)
    return [
        f"{row.name} spent {row.nfe:.0f} of {most:.0f} NFE a prompt: its own options or rules ended it"
        for row in found.entries
        if row.nfe is not None and row.nfe < 0.8 * most
    ]
