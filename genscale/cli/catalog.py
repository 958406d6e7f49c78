"""Tables of samplers, verifiers and models for people, from the records that --json prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

NEEDS = (
    ("verifier only", "the score of finished images"),
    ("previews", "scores of half-finished images, and a scheduler whose noise levels can be read"),
    ("gradients", "a differentiable verifier, and memory to go back through the denoiser"),
    ("no verifier", "guidance or a mix of predictions steers; a verifier only picks the best"),
)
"""What samplers need, in the order of the listing: (heading, what it means)."""

FACTS = (
    ("scale", "scale of its scores"),
    ("judges", "judges"),
    ("reads", "reads of the prompt"),
    ("weights", "weights"),
    ("licence", "licence of the weights"),
    ("loaded", "its published weights were loaded here"),
    ("differentiable", "differentiable"),
)
"""What the record of a verifier says: (key, how it is told)."""


def group_of(record: Mapping[str, Any]) -> str:
    """The heading that a sampler stands under."""
    needs = set(record.get("needs", ()))
    if "gradient" in needs:
        return "gradients"
    if needs & {"branches", "mix"}:
        return "no verifier"
    return "previews" if "schedule" in needs else "verifier only"


def print_samplers(records: list[dict[str, Any]], console: Console) -> None:
    """Print one line for each sampler, grouped by what it needs."""
    width = max((len(record["name"]) for record in records), default=0)
    for heading, meaning in NEEDS:
        some = [record for record in records if group_of(record) == heading]
        if some:
            console.print(Text(heading, style="bold").append(f": {meaning}", style="dim"), soft_wrap=True)
            _print_lines(some, width, console)
    _print_hint("samplers", console)


def print_verifiers(records: list[dict[str, Any]], console: Console) -> None:
    """Print one line for each verifier."""
    _print_lines(records, max((len(record["name"]) for record in records), default=0), console)
    _print_hint("verifiers", console)


def _print_lines(records: Iterable[dict[str, Any]], width: int, console: Console) -> None:
    for record in records:
        line = Text(f"  {record['name']:<{width}}  ", style="bold").append(
            one_line(record["about"]), style="not bold"
        )
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            console.print(line, soft_wrap=True)


def one_line(about: str) -> str:
    """What a plug-in does, without where it was published."""
    return re.sub(r" \([^()]*(?:\b\d{4}\b|arXiv|ICLR)[^()]*\)", "", about)


def _print_hint(command: str, console: Console) -> None:
    console.print(
        f"\n`genscale {command} NAME` explains one with all its options; --json prints everything.",
        style="dim", markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def print_details(record: dict[str, Any], console: Console) -> None:
    """One plug-in with every option explained."""
    console.print(Text(record["name"], style="bold"), Text(record["about"]))
    for extra in (record.get("cost") and f"cost in NFE: {record['cost']}", record.get("paper")):
        if extra:
            console.print(Text(extra, style="dim"))
    for key, what in FACTS:
        if key in record:
            value = record[key]
            said = ", ".join(value) if isinstance(value, list) else "yes" if value is True else value or "no"
            console.print(Text(f"{what}: {said}", style="dim"), soft_wrap=True)
    if "needs" in record:
        heading = group_of(record)
        console.print(Text(f"needs: {heading} ({dict(NEEDS)[heading]})", style="dim"))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    for name, option in record["options"].items():
        flag = "--" + name.replace("_", "-")
        table.add_row(
            Text(flag, style="bold"), Text(f"{option['type']}, {option['default']}"), Text(option["about"])
        )
    if record.get("candidates"):
        table.add_row(Text("--candidates", style="bold"), Text("a whole number"), Text(record["candidates"]))
    if record["options"]:
        console.print()
        console.print(table)


def print_models(records: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("model", "", "size", "steps", "guidance", "verifier", "held out"):
        table.add_column(title, no_wrap=bool(title))
    for r in records:
        about = r["about"] if r["installed"] else f"{r['about']}, not installed"
        row = (r["name"], about, r["size"], r["steps"], r["guidance"], r["verifier"], r["held_out"])
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)
    console.print(
        Text(
            "\nAny diffusers folder, .safetensors or .ckpt file, or Hugging Face id (owner/name) works too.",
            "dim",
        )
    )
