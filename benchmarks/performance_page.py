"""The tables of docs/explanation/performance.md, from what the benchmarks wrote to benchmarks/results.

python -m benchmarks.performance_page
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "explanation" / "performance.md", ROOT / "benchmarks" / "results"
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def fill(rows: list[Row]) -> str:
    """Calls and fill of 16 prompts at 8 and at 20 steps, with and without mixed steps."""
    cases = {(r["sampler"], r["steps"]): r for r in rows if r["prompts"] > 1}
    cells = [
        [f"`{name}`"]
        + [
            f"{cases[name, steps][how]['calls']}, {cases[name, steps][how]['fill']:.2f}"
            for steps in (8, 20)
            for how in ("uniform", "mixed")
        ]
        for name in dict.fromkeys(name for name, _ in cases)
    ]
    head = ["8 steps: calls, fill", "with mixed steps", "20 steps: calls, fill", "with mixed steps"]
    return table(["sampler", *head], cells)


def overhead(rows: list[Row]) -> str:
    """Ratios to the plain call: median, least to largest."""
    cells = []
    for row in rows:
        ratios = [row[name]["ratio"] for name in ("first", "again", "without the winner")]
        plain = f"{1e3 * row['plain']['seconds']:.0f}"
        cells.append([row["model"], plain, *(f"{m:.2f} ({a:.2f} to {b:.2f})" for m, a, b in ratios)])
    head = ["model", "plain, ms", "first call", "further calls", "without decoding the winner"]
    return table(head, cells)


TABLES: dict[str, Callable[[list[Row]], str]] = {"fill": fill, "overhead": overhead}


def filled(page: str) -> str:
    """The page with every table made anew."""
    for name, made in TABLES.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{PAGE.name} has no place for the table '{name}'")
        page = f"{before}{begin}\n{made(read(name))}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
