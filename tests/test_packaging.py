"""One package in four folders: pyproject, links, entry points and files agree."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from genscale.plugins import registry

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

ROOT = Path(__file__).parents[1]
ROOMS = ("samplers", "verifiers", "pipelines")
BASES = {  # what plug-ins derive from
    "genscale.verifiers.axis_judge:AxisJudge",
    "genscale.verifiers.differentiable:Differentiable",
}


@pytest.fixture(scope="module")
def project() -> dict:
    if tomllib is None:
        pytest.skip("needs tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_code_is_a_package_that_is_built(project: dict) -> None:
    setuptools = project["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT).as_posix() for p in ROOT.rglob("__init__.py") if not p.is_symlink()}
    folders = {f for f in folders if not f.startswith((".", "examples/"))}  # those are packages of their own
    links = {f"genscale/{room}" for room in ROOMS}  # rglob may or may not follow links
    inside = {f for f in folders - links if f.startswith("genscale")}
    assert folders - links - inside == set(ROOMS)
    assert set(setuptools["packages"]) == {f.replace("/", ".") for f in inside | links}
    assert len(setuptools["packages"]) == len(set(setuptools["packages"]))
    assert setuptools["package-dir"] == {f"genscale.{room}": room for room in ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_links_are_relative_and_lead_to_the_rooms(room: str) -> None:
    link = ROOT / "genscale" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../{room}"
    assert link.resolve() == (ROOT / room).resolve()
    assert not (ROOT / room).is_symlink()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_no_rooms(room: str) -> None:
    inside = [p.name for p in (ROOT / room).iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert inside == []


def test_no_vague_names() -> None:
    vague = ("utils", "util", "common", "helpers", "helper", "misc")
    files = [p for folder in ("genscale", *ROOMS, "tests") for p in (ROOT / folder).glob("*.py")]
    assert len(files) > 40
    for path in files:
        assert path.stem not in vague, path
        assert not path.stem.startswith(("base_", "utils_")), path
        assert not path.stem.endswith(("_utils", "_helpers", "_base", "_manager")), path
        names = [n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)]
        assert not [n for n in names if n.endswith(("Manager", "Helper", "Utils"))], path


def plugin_classes(room: str) -> dict[str, str]:
    """`module:Class` of every class of a room that is a plug-in: public, made there, and able to do the job."""
    job = "search" if room == "samplers" else "__call__"
    found = {}
    for path in sorted((ROOT / room).glob("*.py")):
        if path.stem == "__init__":
            continue
        module = import_module(f"genscale.{room}.{path.stem}")
        for name, cls in vars(module).items():
            if not inspect.isclass(cls) or cls.__module__ != module.__name__ or name.startswith("_"):
                continue
            if room == "samplers":
                plugin = callable(getattr(cls, job, None))
            else:
                signature = inspect.signature(cls.__call__) if "__call__" in dir(cls) else None
                plugin = signature is not None and list(signature.parameters)[1:] == ["media", "prompts"]
            if plugin:
                found[f"{module.__name__}:{name}"] = path.stem
    return found


@pytest.mark.parametrize("room", ["samplers", "verifiers"])
def test_every_plug_in_has_an_entry_point_and_the_reverse(room: str, project: dict) -> None:
    declared = project["project"]["entry-points"][f"genscale.{room}"]
    assert set(declared.values()) == set(plugin_classes(room)) - BASES
    assert len(set(declared.values())) == len(declared)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_what_is_installed_is_what_is_declared(kind: str, project: dict) -> None:
    """An editable install goes stale when entry points change: install it again."""
    declared = project["project"]["entry-points"][f"genscale.{kind}s"]
    installed = {name: point.value for name, point in registry.found(kind).items()}
    assert {n: v for n, v in installed.items() if v.startswith("genscale.")} == declared


def test_model_files_are_shipped(project: dict) -> None:
    data = project["tool"]["setuptools"]["package-data"]
    assert data == {
        "genscale": ["py.typed", "*.pyi", "models/**/*"],
        "genscale.samplers": ["references.bib"],
    }
    for shipped in ("genscale/py.typed", "genscale/__init__.pyi", "samplers/references.bib"):
        assert (ROOT / shipped).is_file()


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_not_a_package_of_its_own(room: str) -> None:
    done = python(f"import {room}")
    assert done.returncode == 1
    assert f"ImportError: import genscale.{room}, not {room}" in done.stderr


HEAVY = ("diffusers", "transformers", "open_clip", "torchvision", "accelerate")


def loaded(code: str, names: tuple[str, ...]) -> list[str]:
    done = python(f"import sys\n{code}\nprint(*[n for n in {names!r} if n in sys.modules])")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_genscale_is_light() -> None:
    assert loaded("import genscale", (*HEAVY, "torch", "numpy")) == []
    assert loaded("import genscale\ndir(genscale)\ngenscale.UsageError", (*HEAVY, "torch")) == []
    assert (
        loaded("import genscale.samplers.zero_order, genscale.engine.engine, genscale.engine.plan", HEAVY)
        == []
    )


def test_importing_the_command_line_is_light() -> None:
    assert loaded("import genscale.cli.app", HEAVY) == []


def test_the_check_of_lightness_sees_weight() -> None:
    assert loaded("import accelerate", ("accelerate", "torch")) == ["accelerate", "torch"]
