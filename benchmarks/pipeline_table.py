"""The table of docs/reference/pipelines-table.md: pipeline classes of diffusers, as a sweep over tiny ones finds it.

The page is written by hand but for the table, which this fills in; it takes about a quarter of an hour.

    python -m benchmarks.pipeline_table
"""

from __future__ import annotations

from pathlib import Path

import diffusers

from tests.derived import derived
from tests.derived_skipped import SKIPPED
from tests.sweep_run import Found, sweep

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "pipelines-table.md"
BEGIN, END = "<!-- begin: table -->\n", "<!-- end: table -->"


def main() -> None:
    diffusers.utils.logging.set_verbosity_error()
    found = []
    for name, pipeline in derived().items():
        found.append(sweep(pipeline))
        print(line(found[-1]) or name, flush=True)
    PAGE.write_text(filled(PAGE.read_text(), table(found)))


def filled(text: str, made: str) -> str:
    head, rest = text.split(BEGIN, 1)
    return head + BEGIN + "\n" + made + "\n" + END + rest.split(END, 1)[1]


def table(found: list[Found]) -> str:
    """The table and, below it, the classes that were not tried, by reason."""
    searched = [f for f in found if f.searched]
    ran = [f for f in found if not f.alone]
    head = [
        f"diffusers {diffusers.__version__}: {len(searched)} of {len(ran)} classes that run here are searched.",
        "",
        "| pipeline | makes | candidates are evaluated | search |",
        "|---|---|---|---|",
    ]
    reasons: dict[str, list[str]] = {}
    for name, reason in SKIPPED.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    rest = [f"* {reason}: {', '.join(names)}" for reason, names in reasons.items()]
    return "\n".join([*head, *map(line, ran), "", "Not tried:", "", *rest, ""])


def line(found: Found) -> str:
    """One row of the table."""
    cells = (f"`{found.name}`", found.makes or media(found.shape), found.mode or "–", outcome(found))
    return "| " + " | ".join(cells) + " |"


def outcome(found: Found) -> str:
    if found.searched:
        return "bit for bit"
    if found.alone:
        return f"does not run alone: {found.alone}"
    if found.refused:
        return f"refused: {found.refused}"
    plain = (found.one or found.three).translate(str.maketrans("|[]", "/()"))  # no marks of Markdown
    return "not yet: " + " ".join(plain.split())


def media(shape: tuple[int, ...]) -> str:
    """What a pipeline makes, by the shape of its output: [images, rows, columns, colours] and so on."""
    if len(shape) == 5 and shape[1] > 1:
        return "videos"
    return "images" if len(shape) >= 3 else "embeddings"


if __name__ == "__main__":
    main()
