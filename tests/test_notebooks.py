"""Every notebook runs from start to end, in a kernel of its own as in Jupyter, and is kept without outputs."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks are run with nbclient: pip install -e '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="notebooks are run with nbclient: pip install -e '.[dev]'")

pytest.importorskip("mkdocs", reason="docs/hooks/ run the notebooks: pip install -e '.[dev]'")

from docs.hooks.notebooks import executed, store  # noqa: E402

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def test_all_are_here() -> None:
    assert [p.stem[:2] for p in NOTEBOOKS] == [f"{i:02d}" for i in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 6


@pytest.mark.slow
@each
def test_runs_from_start_to_end(path: Path, tmp_path: Path) -> None:
    """Its last code cell checks what it claims, so a claim that is no longer true is an error."""
    notebook = executed(read(path), tmp_path)
    store(path, notebook)  # the site shows these outputs
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert any("image/png" in o.get("data", {}) for o in outputs), "it shows no image"
    told = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not [t for t in told if "TqdmWarning" not in t and t.strip()], (
        told
    )  # nothing that a reader would wonder at


@each
def test_is_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/|\w:\\\\", text)


@each
def test_explains_checks_and_leads_on(path: Path) -> None:
    cells = read(path).cells
    words = [cell for cell in cells if cell.cell_type == "markdown"]
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert words[0] is cells[0]
    assert re.match(rf"# {int(path.stem[:2])}\. ", cells[0].source)
    assert cells[-1].source.startswith("## What next")
    checks = [node for node in ast.walk(ast.parse(code[-1].source)) if isinstance(node, ast.Assert)]
    assert code[-1] is cells[-2]
    assert len(checks) >= 4
    assert len(words) >= len(code) // 2
    for cell in code:
        assert len(cell.source.splitlines()) <= 32, cell.source


def test_the_notebooks_that_are_named_are_there() -> None:
    stems = {p.stem for p in NOTEBOOKS}
    texts = [p.read_text(encoding="utf-8") for p in [*NOTEBOOKS, ROOT / "examples/genscale-plugin/README.md"]]
    named = {name for text in texts for name in re.findall(r"\b(0\d_[a-z_]+)\b", text)}
    assert named <= stems
    assert len(named) >= 4


def test_a_broken_claim_is_an_error(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="AssertionError"):
        executed(notebook, tmp_path)
