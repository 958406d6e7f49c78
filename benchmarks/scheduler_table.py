"""The table of docs/reference/schedulers.md: every scheduler class of diffusers on small pipelines, as a test finds it.

The page is written by hand but for the table, which this fills in. tests/test_scheduler_table.py holds that the page is
what it would write.

    python -m benchmarks.scheduler_table
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import diffusers

from tests.scheduler_cells import EQUAL, FAILS, LOOPS, REFUSED, cells, schedulers

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "schedulers.md"
BEGIN, END = "<!-- begin: table -->\n", "<!-- end: table -->"
COMMON = [loop.title for loop in LOOPS if not loop.takes]

Row = dict[str, Counter[str]]  # title of a pipeline -> what came out, and how often


def main() -> None:
    diffusers.utils.logging.set_verbosity_error()
    PAGE.write_text(filled(PAGE.read_text(), {name: row(name) for name in schedulers()}))


def row(name: str) -> Row:
    cls = schedulers()[name]
    return {loop.title: found for loop in LOOPS if (found := cells(cls, loop))}


def filled(text: str, rows: dict[str, Row]) -> str:
    head, rest = text.split(BEGIN, 1)
    return head + BEGIN + "\n" + table(rows) + "\n" + END + rest.split(END, 1)[1]


def table(rows: dict[str, Row]) -> str:
    sentences: list[str] = []
    for found in rows.values():
        for outcomes in found.values():
            sentences += [s for s in outcomes if s.startswith(REFUSED) and s not in sentences]
    lines = [
        f"diffusers {diffusers.__version__}:",
        "",
        "| scheduler | " + " | ".join(COMMON) + " | a pipeline of its own |",
        "|---|" + "---|" * (len(COMMON) + 1),
    ]
    lines += [line(name, found, sentences) for name, found in rows.items()]
    lines += ["", *(f"[{i + 1}] {s.removeprefix(REFUSED)}<br>" for i, s in enumerate(sentences)), ""]
    return "\n".join(lines)


def line(name: str, found: Row, sentences: list[str]) -> str:
    own = [
        f"{title}: {_said(outcomes, sentences)}" for title, outcomes in found.items() if title not in COMMON
    ]
    common = [_said(found[title], sentences) for title in COMMON]
    return f"| `{name}` | " + " | ".join(common) + " | " + "; ".join(own) + " |"


def _said(outcomes: Counter[str], sentences: list[str]) -> str:
    """Such as "bit for bit (7), refused (1) [2]"; what does not run counts only where nothing else does."""
    parts = [f"{EQUAL} ({outcomes[EQUAL]})"] if outcomes[EQUAL] else []
    refused = {sentences.index(s) + 1: n for s, n in outcomes.items() if s.startswith(REFUSED)}
    if refused:
        marks = ", ".join(f"[{i}]" for i in sorted(refused))
        parts.append(f"refused ({sum(refused.values())}) {marks}")
    return ", ".join(parts) or FAILS


if __name__ == "__main__":
    main()
