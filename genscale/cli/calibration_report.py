"""A calibration as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genscale.results.calibration import CalibratedStep, Calibration


def print_calibration(found: Calibration, folder: Path, console: Console) -> None:
    """Print the table of steps, the recommendation and the files."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("step", "of the run", "noise", "mean rho", "95 % interval", "kept", "prompts"):
        table.add_column(title, justify="right")
    start = found.window()[0]
    for level in found.levels:
        table.add_row(*_cells(level), style="bold" if level.fraction >= start else "")
    console.print(table)
    console.print(
        "kept: share of the final top quarter in the preview's top half (chance: 0.5)",
        style="dim",
        highlight=False,
    )
    left_out = max((level.agreement.left_out for level in found.levels), default=0)
    if left_out:
        console.print(f"left out, all their scores being equal: up to {left_out} prompts a step", style="dim")
    console.print(Text(recommendation(found)))
    if drafts := found.about.get("drafts"):
        _print_drafts(drafts, console)
    for name in ("calibration.json", "calibration.png"):
        console.print(f"{folder}/{name}", markup=False, highlight=False, soft_wrap=True)


def _print_drafts(drafts: Sequence[Mapping[str, Any]], console: Console) -> None:
    """What each draft costs and keeps, and how to use it with the compute of half as many candidates."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in (
        "draft",
        "cost",
        "mean rho",
        "kept of the gain, by keep",
        "margin",
        "with half the compute",
    ):
        table.add_column(title, justify="left")
    for draft in drafts:
        shares = ", ".join(f"{keep}: {share:.2f}" for keep, share in draft["kept"].items())
        best = draft["recommended"]
        advice = (
            f"{best['candidates']} drafts, keep {best['keep']}: {best['share']:.2f} (without: {best['without']:.2f})"
            if best
            else "no room for a draft"
        )
        margin = "none" if draft["margin"] is None else f"{draft['margin']:.3g}"
        table.add_row(draft["draft"], f"{draft['cost']:.2f}", _number(draft["rho"]), shares, margin, advice)
    console.print(table)


def _cells(level: CalibratedStep) -> tuple[str, ...]:
    found = level.agreement
    interval = "" if found.low is None or found.high is None else f"{found.low:.2f} to {found.high:.2f}"
    return (
        str(level.step),
        f"{level.fraction:.2f}",
        _number(level.time),
        _number(found.rho),
        interval,
        _number(found.kept),
        str(found.prompts),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def recommendation(found: Calibration) -> str:
    """From which step on to trust previews, in one sentence."""
    start, end = found.window()
    if start >= end:
        return (
            f"Previews predict nothing here (mean rho does not stay at {found.threshold:g} or above): "
            "use best_of_n, which looks at finished images only."
        )
    return (
        f"Trust previews from {start:.2g} of the run on (mean rho stays at {found.threshold:g} or above): "
        "genscale generate --calibration takes it from the file."
    )
