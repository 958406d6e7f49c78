"""What a person reads when a run is over, or before it begins."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

LINES = 20  # prompts listed; all of them are in run.json


def show_record(record: dict[str, Any], console: Console) -> None:
    """Base against best for each prompt, what it cost, and where the pictures are."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("prompt", "score", "base", "best"):
        table.add_column(title, justify="right" if title in ("base", "best") else "left")
    for found in record["prompts"][:LINES]:
        for n, (name, base, best) in enumerate(_scores(found)):
            table.add_row(Text(found["prompt"] if n == 0 else ""), Text(name), base, Text(best, style="bold"))
    console.print(table)
    if len(record["prompts"]) > LINES:
        console.print(f"... {len(record['prompts']) - LINES} more in run.json", style="dim")
    ledger = record["ledger"]
    console.print(
        f"{ledger['evaluations']} NFE, {record['wall_seconds']:.1f} s, seed {record['seed']}",
        style="dim",
        highlight=False,
    )
    if record["stopped"]:
        console.print(f"{record['stopped']}: this is the best so far.", markup=False, highlight=False)
    for name in (record["prompts"][0]["files"]["best"][:1] if record["prompts"] else []) + record[
        "contact_sheets"
    ][:1]:
        console.print(f"{record['folder']}/{name}", markup=False, highlight=False, soft_wrap=True)


def show_plan(plan: dict[str, Any], console: Console) -> None:
    unknown = "until the budget ends"
    rows = {
        "model": plan["model"],
        "sampler": " ".join(f"{v}" if k == "name" else f"{k}={v}" for k, v in plan["sampler"].items()),
        "verifiers": ", ".join(plan["verifiers"]["search"]),
        "budget": plan["budget"] or "none",
        "prompts": plan["prompts"],
        "steps": plan["steps"],
        "NFE a candidate": plan["nfe_per_candidate"],
        "NFE a prompt": unknown if plan["nfe_per_prompt"] is None else plan["nfe_per_prompt"],
        "NFE in all": unknown if plan["nfe"] is None else plan["nfe"],
    }
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(str(value)))
    console.print(table)


def _scores(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, base, best) for the score of every verifier."""
    best, base = found["best"] or {}, found["base"] or {}
    rows = []
    for role in ("search", "select", "report"):
        for name, value in best.get(role, {}).items():
            before = base.get(role, {}).get(name)
            label = name if role == "search" else f"{name} ({'held out' if role == 'report' else role})"
            rows.append((label, "" if before is None else f"{before:.4g}", f"{value:.4g}"))
    return rows or [("nothing finished", "", "")]
