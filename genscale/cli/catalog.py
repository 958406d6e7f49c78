"""What is there: samplers, verifiers and models, as records for --json and as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# --------------------------------------------------------------------------------------------- for people


def show_plugins(kind: str, records: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", show_edge=False, padding=(0, 3, 1, 0))
    for title in (kind, "", "options"):
        table.add_column(title, overflow="fold")
    for record in records:
        about = Text(record["about"])
        for extra in (record.get("cost") and f"cost: {record['cost']}", record.get("paper")):
            if extra:
                about.append(f"\n{extra}", style="dim")
        options = "\n".join(f"{n}={o['default']}" for n, o in record["options"].items())
        table.add_row(Text(record["name"], style="bold"), about, Text(options))
    console.print(table)


def show_details(record: dict[str, Any], console: Console) -> None:
    """One plug-in with every option explained."""
    console.print(Text(record["name"], style="bold"), Text(record["about"]))
    for extra in (record.get("cost") and f"cost in NFE: {record['cost']}", record.get("paper")):
        if extra:
            console.print(Text(extra, style="dim"))
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


def show_models(records: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("model", "", "size", "steps", "guidance", "verifier", "held_out"):
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
