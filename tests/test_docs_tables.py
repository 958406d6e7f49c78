"""The tables of README and docs list what is registered: all of it, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from genscale.plugins.registry import found, load
from tests.doc_blocks import ROOT, blocks, commands

README = (ROOT / "README.md").read_text()
VERIFIERS = (ROOT / "docs" / "verifiers.md").read_text()


def first_column(table: str) -> set[str]:
    """Names in the first cells of a table's lines."""
    cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) ", table, re.M)
    return {name for cell in cells for name in re.findall(r"\w+", cell)}


def test_every_sampler_is_in_the_readme_and_the_reverse() -> None:
    assert first_column(README.split("## Samplers")[1].split("\n## ")[0]) == set(found("sampler"))


def test_every_verifier_is_in_its_page_and_the_reverse() -> None:
    assert first_column(VERIFIERS) == set(found("verifier"))


def test_the_readme_names_every_verifier() -> None:
    assert set(found("verifier")) <= set(re.findall(r"`(\w+)`", README))


def test_every_sampler_and_verifier_says_what_it_is() -> None:
    for kind in ("sampler", "verifier"):
        for name in found(kind):
            assert (load(kind, name).__doc__ or "").strip()


def test_ci_runs_the_second_command_of_the_readme() -> None:
    run = (ROOT / ".ci" / "run").read_text()
    second = [block.code.strip() for block in blocks(README) if block.language == "sh"][1]
    assert second.startswith("python3 -m venv .venv && ")
    assert second in run.splitlines()
    assert re.search(r"\.venv/bin/mkdocs build --strict(?! -)", run)


def test_no_placeholder_is_left() -> None:
    assert "<!--" not in README


MEASURED = (
    "README.md",
    "genscale/engine/stopping.py",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if p.stem != "index"),
)
GUIDES = [
    ROOT / "docs" / "index.md",
    *(p for folder in ("tutorials", "how-to", "explanation") for p in (ROOT / "docs" / folder).glob("*.md")),
]


def intervals(text: str) -> set[tuple[float, float]]:
    """Every `mean ± half width`, without its sign."""
    number = r"(\d*\.\d+)"
    return {(float(m), float(h)) for m, h in re.findall(rf"{number}\**\s*(?:±|\+-)\s*{number}", text)}


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.stem)
def test_numbers_that_a_guide_quotes_are_in_a_measured_table(page: Path) -> None:
    measured = set[tuple[float, float]]().union(*(intervals((ROOT / name).read_text()) for name in MEASURED))
    assert intervals(page.read_text()) <= measured


def test_intervals_are_read() -> None:
    assert intervals("+.0142 ± .0039, **-0.020 ± 0.5**, 3 +- 4, -0.0008 +- 0.0017") == {
        (0.0142, 0.0039),
        (0.020, 0.5),
        (0.0008, 0.0017),
    }


@pytest.mark.parametrize("gone", ["| `smc` |", "| `svdd` |"])
def test_a_missing_line_is_seen(gone: str) -> None:
    assert first_column(README.replace(gone, "| smc |")) != first_column(README)


def test_commands_are_split_as_a_shell_does() -> None:
    code = 'a "b c" && d \\\n  --e f  # not this\n# nor this\ng'
    assert commands(code) == [["a", "b c"], ["d", "--e", "f"], ["g"]]
