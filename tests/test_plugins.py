"""Samplers and verifiers by name."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer

import genscale
from genscale.cli import app
from genscale.errors import UsageError, did_you_mean
from genscale.plugins import registry
from genscale.samplers.best_of_n import BestOfN


@dataclass(frozen=True)
class Stranger:
    """A third party's sampler."""

    size: int
    shape: str = "round"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must be positive")


class Plain:
    """A plug-in that is no dataclass."""

    def __init__(self, colour: str = "red") -> None:
        self.colour = colour


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("stranger", f"{__name__}:Stranger", "genscale.samplers"),
        EntryPoint("plain", f"{__name__}:Plain", "genscale.samplers"),
        EntryPoint("gone", "no_such_package:Sampler", "genscale.samplers"),
        EntryPoint("nameless", f"{__name__}:Nobody", "genscale.samplers"),
    ]
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this())
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


def _this() -> Any:
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(Stranger=Stranger, Plain=Plain)
    return module


def refusal(kind: str, name: str, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        registry.make(kind, name, settings)
    return str(caught.value)


def test_a_built_in_one_by_name() -> None:
    assert registry.make("sampler", "best_of_n", {"candidates": 4}) == BestOfN(4)
    assert list(registry.options(BestOfN)) == ["candidates", "prune", "survivors", "wave", "previews"]


def test_a_stranger_s_registers_alike(registered: None) -> None:
    assert list(registry.found("sampler")) == ["gone", "nameless", "plain", "stranger"]
    assert registry.make("sampler", "stranger", {"size": 3}) == Stranger(3)
    assert registry.make("sampler", "plain", {"colour": "blue"}).colour == "blue"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_an_unknown_name(kind: str) -> None:
    assert "is unknown" in refusal(kind, "zzz")
    for name in registry.found(kind):
        assert name in refusal(kind, "zzz")


def test_did_you_mean() -> None:
    assert "did you mean 'best_of_n'" in refusal("sampler", "best_off_n")
    assert "did you mean 'candidates'" in refusal("sampler", "best_of_n", candidate=4)
    assert did_you_mean("qqqq", ["clip"]) == ""


def test_bad_options(registered: None) -> None:
    assert "needs the option 'size'" in refusal("sampler", "stranger")
    assert "has no option 'weight'" in refusal("sampler", "stranger", size=1, weight=2)
    assert "refuses its options: size must be positive" in refusal("sampler", "stranger", size=-1)
    assert "refuses its options" in refusal("sampler", "stranger", size="a")
    assert "refuses its options" in refusal("sampler", "plain", size=1)


def test_a_refusal_of_its_own_comes_through() -> None:
    assert refusal("sampler", "best_of_n", candidates=0) == "best_of_n needs at least 1 candidate, not 0."


def test_what_cannot_be_loaded(registered: None) -> None:
    assert "no_such_package" in refusal("sampler", "gone")
    assert "Nobody" in refusal("sampler", "nameless")


def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A module of that code is registered as sampler `broken` beside the built-in ones."""
    (tmp_path / "broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    real = registry.entry_points
    point = EntryPoint("broken", "broken_plugin:Sampler", "genscale.samplers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [*real(group=group), point])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('no such driver')", "RuntimeError: no such driver"),
        ("def search(:", "SyntaxError"),
        ("import no_such_package", "no_such_package"),
        ("x = 1", "which is not there"),
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n"
            "@dataclass\nclass Sampler:\n    size: Unknown = 1",
            "Unknown",
        ),
    ],
)
def test_a_broken_one_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genscale: Any, code: str, told: str
) -> None:
    broken(tmp_path, monkeypatch, code)
    exit_code, out, err = genscale("samplers", "--json")
    listed = {record["name"]: record for record in json.loads(out)}
    assert (exit_code, err) == (0, "")
    assert told in listed["broken"]["about"]
    assert listed["best_of_n"]["options"]["candidates"]["type"] == "a whole number or none"
    exit_code, out, err = genscale("samplers", "broken")
    assert (exit_code, out) == (2, "")
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_a_stranger_does_not_take_the_name_of_a_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.entry_points
    point = EntryPoint("best_of_n", "no_such_package:Sampler", "genscale.samplers")
    for order in (lambda own: [*own, point], lambda own: [point, *own]):
        monkeypatch.setattr(
            registry, "entry_points", lambda group, order=order: order(list(real(group=group)))
        )
        assert registry.load("sampler", "best_of_n") is BestOfN


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    with pytest.raises(UsageError, match="pip install"):
        registry.found("sampler")


@pytest.mark.parametrize("name", registry.found("sampler"))
def test_no_option_of_a_sampler_hides_behind_a_word_of_its_callers(name: str) -> None:
    """`scale(pipe, "x", keep=3)` and `genscale generate --sampler x --keep 3` mean their own `keep`."""
    options = set(registry.options(registry.load("sampler", name)))
    words = set(inspect.signature(genscale.scale).parameters) - {"options"}
    assert not options & words
    generate = typer.main.get_command(app.app).commands["generate"]  # type: ignore[attr-defined]
    assert not options & {p.name for p in generate.params}
