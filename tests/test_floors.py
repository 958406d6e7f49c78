"""Who may import whom: the floors of `import_floors`, and where libraries may be used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.import_floors import (
    FLOOR,
    ROOT,
    circles,
    folder_arrows,
    folder_of,
    imports,
    module_arrows,
    module_name,
    sources,
)

LIBRARIES = {"diffusers", "transformers", "open_clip"}  # inside functions of these folders only
LIBRARY_FOLDERS = {"pipelines", "verifiers"}
ONLY_IN = {
    "gradio": {"demo"},
    "typer": {"cli"},
    "rich": {"cli", "runs", "commands"},
}  # library: the folders that may know it
# Carrying out a request quiets the loading bars of the libraries and writes down versions.
EXEMPT = {"genscale.runs.model_pipeline"}


def broken(path: Path, source: str) -> list[str]:
    """What a file imports that its floor may not know."""
    name = module_name(path)
    here, faults = folder_of(name), []
    for found in imports(source):
        where, top = f"{name}:{found.line} imports {found.module}", found.module.split(".")[0]
        there = folder_of(found.module)
        if top == "genscale":
            if not here and not (found.late or found.typing):
                faults.append(f"{where}: `import genscale` stays light")
            if here and there in FLOOR and there != here and FLOOR[there] >= FLOOR[here]:
                faults.append(f"{where}, which is not below it")
            if here == there == "samplers":
                faults.append(f"{where}: what samplers share belongs in genscale/algorithms")
        elif top in LIBRARIES and not found.typing:
            if here not in LIBRARY_FOLDERS and name not in EXEMPT:
                faults.append(f"{where}: only {' and '.join(sorted(LIBRARY_FOLDERS))} may")
            if not found.late:
                faults.append(f"{where} at its top: only inside functions")
        elif here not in ONLY_IN.get(top, {here}):
            faults.append(f"{where}: only {' and '.join(sorted(ONLY_IN[top]))} may")
    return faults


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_go_down(path: Path) -> None:
    assert broken(path, path.read_text()) == []


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 350
    functions = (
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert [f.name for f in functions if lines_of_code(f) > 60] == []


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without the docstring, which is as long as there is something to say."""
    first = function.body[0]
    told = isinstance(first, ast.Expr) and ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if told else 0)


def test_every_folder_has_a_floor() -> None:
    assert {folder_of(module_name(p)) for p in sources()} - {"", "__main__"} == set(FLOOR)


def test_no_circles() -> None:
    assert circles(folder_arrows()) == []
    assert circles(module_arrows()) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("genscale/key.py", "from genscale.protocol.queries import Solve"),
        ("genscale/protocol/particles.py", "from genscale.engine.engine import Engine"),
        ("genscale/engine/engine.py", "import genscale.samplers.best_of_n"),
        (
            "genscale/engine/engine.py",
            "def f():\n    from genscale.pipelines.pipeline_call import PipelineCall",
        ),
        ("genscale/engine/plan.py", "from genscale import cli"),
        ("genscale/engine/plan.py", "from genscale.algorithms.tempering import joined"),
        (
            "genscale/numerics/haar.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from genscale.engine import plan",
        ),
        ("genscale/__init__.py", "from genscale.pipelines.scale import scale"),
        ("samplers/new.py", "from genscale.verifiers.clip import Clip"),
        ("samplers/new.py", "from genscale.samplers.best_of_n import BestOfN"),
        ("samplers/new.py", "from genscale.pipelines.pipeline_call import PipelineCall"),
        ("samplers/new.py", "def f():\n    import diffusers"),
        ("verifiers/new.py", "from genscale.pipelines.scale import scale\nfrom genscale.runs import lineage"),
        ("verifiers/new.py", "from transformers import CLIPModel"),
        ("pipelines/new.py", "import diffusers.utils"),
        ("pipelines/new.py", "if True:\n    import diffusers"),
        ("pipelines/new.py", "from genscale.cli.app import main"),
        ("genscale/media.py", "def f():\n    import open_clip"),
        ("pipelines/new.py", "import gradio"),
    ],
)
def test_the_check_sees(file: str, line: str) -> None:
    assert broken(ROOT / file, line)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("genscale/key.py", "import torch"),
        (
            "genscale/engine/engine.py",
            "from genscale.engine.search import Search\nfrom genscale.key import Key",
        ),
        ("genscale/cli/app.py", "def f():\n    from genscale.pipelines.scale import scale"),
        ("samplers/new.py", "from genscale.numerics.noise_sphere import neighbour\nfrom genscale import Key"),
        ("verifiers/new.py", "class A:\n    def f(self):\n        import transformers"),
        ("pipelines/new.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import diffusers"),
    ],
)
def test_the_check_allows(file: str, line: str) -> None:
    assert broken(ROOT / file, line) == []
