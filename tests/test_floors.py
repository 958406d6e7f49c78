"""Who may import whom: DESIGN section 3, read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import modules of its own floor and of those below it.
FLOORS = (
    # values and mathematics: tensors only
    (
        "errors",
        "key",
        "budget",
        "media",
        "particles",
        "schedule",
        "prediction",
        "geometry",
        "haar",
        "shapes",
        "moving_shapes",
        "agreement",
        "interpolant",
        "kernel",
        "population",
        "thompson",
        "tree",
        "truncated",
        "stopping",
        "tree_policy",
        "potential",
        "twist",
        "weights",
        "clusters",
        "ascent",
        "lbfgs",
        "plausibility",
        "prompt_category",
        "mix",
        "corrector",
        "guidance",
        "palette",
        "intervals",
        "curves",
        "film",
        "contact_sheet",
        "html_table",
        "shown_figure",
        "quiet",
    ),
    # the language of asking, and the process it is about
    (
        "protocol",
        "process",
        "mixer",
        "gradient_questions",
        "affordable",
        "halving",
        "remainder",
        "tree_search",
        "beam_search",
        "subspace",
        "particle_pass",
        "particle_filter",
        "guided_steps",
        "noise_gradient",
    ),
    # what runs searches
    (
        "ledger",
        "panel",
        "archive",
        "events",
        "search",
        "unroll",
        "gradients",
        "engine",
        "plan",
        "result_pictures",
        "result",
        "plugins",
        "calibration",
    ),
    # plug-ins
    ("samplers", "verifiers"),
    # what can be searched in: pipelines, and models that are formulas
    ("pipelines", "analytic"),
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
TOP = len(FLOORS)  # every other module of genscale/: the command line and what it is made of
PACKAGE = 2  # `import genscale` itself gives names of the floors up to here

LIBRARIES = {"diffusers", "transformers", "open_clip"}
ABOVE = {"gradio": "demo", "typer": "cli"}  # library: how the modules are called that may know it
# The command line quiets the loading bars of the libraries and prints versions: on use, inside functions.
EXEMPT = {"genscale/runs/generate.py"}


def sources() -> list[Path]:
    rooms = ("samplers", "verifiers", "pipelines")
    return sorted([*(ROOT / "genscale").glob("*.py"), *(p for r in rooms for p in (ROOT / r).glob("*.py"))])


def room(path: Path) -> str:
    return path.stem if path.parent.name == "genscale" else path.parent.name


def imports(tree: ast.AST, within: bool = False) -> Iterator[tuple[str, bool, int]]:
    """(module, whether inside a function or for type checkers only, line) of every import."""
    for node in ast.iter_child_nodes(tree):
        late = within or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            late = True
        if isinstance(node, ast.Import):
            yield from ((alias.name, within, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "genscale":
                yield from ((f"genscale.{alias.name}", within, node.lineno) for alias in node.names)
            else:
                yield str(node.module), within, node.lineno
        else:
            yield from imports(node, late)


def level_of(module: str) -> int:
    """Floor of an imported genscale module; names of `genscale` itself count as the package."""
    parts = module.split(".")
    if len(parts) == 1 or not ((ROOT / "genscale" / f"{parts[1]}.py").exists() or parts[1] in LEVEL):
        return PACKAGE
    return LEVEL.get(parts[1], TOP)


def broken(path: Path, source: str) -> list[str]:
    """What a file imports that its floor may not know."""
    here, faults = room(path), []
    level = TOP if here == "__init__" else LEVEL.get(here, TOP)
    for module, late, line in imports(ast.parse(source)):
        where, top = f"{path.parent.name}/{path.name}:{line} imports {module}", module.split(".")[0]
        if top == "genscale":
            if here == "__init__" and not late and level_of(module) > PACKAGE:
                faults.append(f"{where}: `import genscale` stays light")
            if level_of(module) > level:
                faults.append(f"{where}, which is above it")
            if {here, module.split(".")[1] if "." in module else ""} == {"samplers", "verifiers"}:
                faults.append(f"{where}: samplers and verifiers do not know each other")
            if here == "samplers" and module.startswith("genscale.samplers"):
                faults.append(f"{where}: what samplers share belongs on a lower floor")
        elif top in LIBRARIES:
            if here not in ("pipelines", "verifiers") and f"genscale/{path.name}" not in EXEMPT:
                faults.append(f"{where}: only pipelines and verifiers may")
            if not late:
                faults.append(f"{where} at its top: only inside functions")
        elif top in ABOVE and here.split("_")[0] != ABOVE[top]:
            faults.append(f"{where}: only {ABOVE[top]} and {ABOVE[top]}_* may")
    return faults


@pytest.mark.parametrize("path", sources(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_floor_knows_one_above_it(path: Path) -> None:
    assert broken(path, path.read_text()) == []


def test_every_floor_is_there() -> None:
    names = {room(p) for p in sources()}
    assert set(LEVEL) <= names


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("genscale/key.py", "from genscale.protocol.interfaces import Solve"),
        ("genscale/engine/process.py", "from genscale.engine.engine import Engine"),
        ("genscale/engine/engine.py", "import genscale.samplers.best_of_n"),
        ("genscale/engine/engine.py", "def f():\n    from genscale.pipelines.run import Run"),
        ("genscale/engine/plan.py", "from genscale import cli"),
        ("genscale/__init__.py", "from genscale.pipelines.scale import scale"),
        ("samplers/new.py", "from genscale.verifiers.clip import Clip"),
        ("samplers/new.py", "from genscale.samplers.best_of_n import BestOfN"),
        ("samplers/new.py", "from genscale.pipelines.run import Run"),
        ("samplers/new.py", "def f():\n    import diffusers"),
        ("verifiers/new.py", "from genscale.samplers.best_of_n import BestOfN"),
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
        ("genscale/engine/engine.py", "from genscale.engine.search import Search\nfrom genscale.key import Key"),
        ("genscale/cli/app.py", "def f():\n    from genscale.pipelines.scale import scale"),
        ("samplers/new.py", "from genscale.numerics.noise_sphere import neighbour\nfrom genscale import Key"),
        ("verifiers/new.py", "class A:\n    def f(self):\n        import transformers"),
        ("pipelines/new.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import diffusers"),
    ],
)
def test_the_check_allows(file: str, line: str) -> None:
    assert broken(ROOT / file, line) == []
