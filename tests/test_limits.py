"""Ranges and types of options: declared once, and the same wherever a value comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from genscale.cli import app, execute, lists
from genscale.engine import memory_check
from genscale.errors import UsageError
from genscale.plugins import limits, options, registry
from genscale.plugins.limits import Limits, fault
from genscale.runs.complete_request import check, completed
from genscale.runs.option_metadata import options_of
from genscale.runs.read_request import from_dict
from genscale.runs.request import Request
from genscale.samplers.beam import Beam
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.smc import Smc
from tests.quick import quick

FITS = [
    (int, 3), (int, np.int64(3)), (int, 2**64), (float, 3), (float, 0.5), (float, math.inf), (float, np.float32(1)),
    (bool, True), (str, "é"), (int | None, None), (float | str, "pool"), (tuple[float, ...], (0.5, 1)),
    (tuple[float, ...], [0.5]), (tuple[float, float], (0, 1)), (int | tuple[int, ...], (1, 2)),
    (Literal["a", "b"], "a"),
    (Mapping[str, Any], {"a": 1}), (Any, object()), ("not resolved", 3),
]  # fmt: skip
DOES_NOT = [
    (int, True), (int, 1.5), (int, math.nan), (int, "3"), (int, 10**30), (int, None), (float, math.nan), (float, True),
    (float, "1"), (float, 1e300), (float, None), (bool, 1), (bool, "yes"), (str, 3), (str, "a\0"), (str, "\ud800"),
    (int | None, "x"), (float | str, None), (tuple[float, ...], 0.5), (tuple[float, ...], (0.5, math.nan)),
    (tuple[float, ...], "ab"), (tuple[float, float], (1,)), (tuple[float, float], (1, 2, 3)), (Literal["a"], "c"),
    (Mapping[str, Any], [1]),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value"), FITS)
def test_what_fits_an_annotation(hint: Any, value: Any) -> None:
    assert fault(value, hint) is None


@pytest.mark.parametrize(("hint", "value"), DOES_NOT)
def test_what_does_not(hint: Any, value: Any) -> None:
    assert fault(value, hint)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Limits(1, 10_000), "at least 1, and 10,000 at most"),
        (Limits(0), "0 or more"),
        (Limits(0, 240, above=True), "above 0, and 240 at most"),
        (Limits(-2, above=True), "above -2"),
        (Limits(), ""),
    ],
)
def test_a_range_in_words(given: Limits, words: str) -> None:
    assert str(given) == words


RANGED = {name: how for name, how in options_of(Request).items() if how.check is not None}
FAR = [10**9, -(10**9), 10**30]


def test_every_number_of_a_request_has_a_range() -> None:
    numbers = {f.name for f in fields(Request) if f.type in ("int", "int | None", "float", "float | None")}
    assert numbers <= {field for name, how in RANGED.items() for field in how.sets or (name,)}


@pytest.mark.parametrize("value", FAR)
@pytest.mark.parametrize("name", RANGED)
def test_the_range_holds_wherever_a_request_comes_from(
    name: str, value: int, tmp_path: Path, genscale: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "seed" and value == 10**9:
        return
    how = RANGED[name]
    field = (how.sets or (name,))[0]
    data = {"prompts": ["a red star"], "model": "shapes-flow", "sampler": "best_of_n", field: value}
    with pytest.raises(UsageError, match=rf"{how.flag}|holds no request|cannot be run: its "):
        check(completed(from_dict(data, "request.json")))  # request.json, compare.json and calls of replay
    info = PngInfo()
    info.add_itxt("genscale", json.dumps({"request": data}))
    Image.new("RGB", (8, 8)).save(tmp_path / "best.png", pnginfo=info)
    monkeypatch.chdir(tmp_path)
    for words in (
        ["plan", "--from", "best.png"],
        ["replay", "best.png"],
        ["plan", "a red star", how.flag, str(value)],
    ):
        code, out, err = genscale(*words)
        assert (code, out, len(err.strip().splitlines())) == (2, "", 1), (words, err)


@dataclass(frozen=True)
class Stranger:
    """A plug-in of another package, whose own checks know nothing."""

    size: int = 3
    rate: float = 1.0
    kinds: tuple[str, ...] = ()
    odd: "Unknown" = None  # type: ignore[name-defined]  # noqa: F821, UP037


def test_an_annotation_that_cannot_be_resolved_is_not_checked() -> None:
    limits.check_plugin("sampler 'stranger'", Stranger(size="x"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BestOfN(candidates=True), "candidates=True must be a whole number"),
        (lambda: BestOfN(candidates=10**6), "candidates=1000000 must be 100,000 at most"),
        (lambda: BestOfN(wave=2.0), "wave=2.0 must be a whole number"),  # type: ignore[arg-type]
        (lambda: Smc(strength=math.nan), "strength=nan must be a number"),
        (lambda: Smc(particles="4"), "particles='4' must be a whole number"),  # type: ignore[arg-type]
        (lambda: Beam(width=2, survivors=3), "survivors=3 keeps 3 of width=2"),
        (lambda: Beam(branch=(1, 10**7, 1)), "branch="),
    ],
)
def test_samplers_made_in_python_are_checked_as_well(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


def test_lists_become_tuples() -> None:
    assert Beam(levels=[0.5, 0.75], survivors=[0.5, 0.25]) == Beam(levels=(0.5, 0.75), survivors=(0.5, 0.25))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", registry.KINDS)
def test_defaults_are_what_the_annotations_say(kind: str) -> None:
    for name in registry.found(kind):
        cls = registry.load(kind, name)
        hints = options.field_types(cls)
        for option, field in registry.options(cls).items():
            if field.default not in (None, ()) and "Kernel" not in str(hints[option]):
                assert (
                    field.default.__class__.__name__ == "_MISSING_TYPE"
                    or fault(field.default, hints[option]) is None
                )


# ------------------------------------------------------------------------------------------ what nobody foresaw


@pytest.mark.parametrize("as_json", [(), ("--json",)])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("boom\nand more"),
        KeyError("x"),
        MemoryError(),
        RecursionError(),
        OSError(5, "Input/output error"),
    ],
)
def test_an_error_that_nobody_foresaw_is_one_sentence_with_a_traceback_in_a_file(
    error: Exception, as_json: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, genscale: Any
) -> None:
    def fails() -> list[Any]:
        raise error

    monkeypatch.setattr(lists, "model_records", fails)
    monkeypatch.setattr(execute.tempfile, "tempdir", str(tmp_path))
    code, out, err = genscale("models", *as_json)
    assert (code, len(err.strip().splitlines())) == (1, 1)
    (kept,) = tmp_path.iterdir()
    assert str(kept) in err
    assert type(error).__name__ in err
    text = kept.read_text()
    assert "Traceback" in text
    assert "in fails" in text
    assert (json.loads(out)["error"] == err.strip().removeprefix("genscale: ")) if as_json else out == ""


def test_exit_codes_differ_and_are_told(genscale: Any) -> None:
    codes = [0, execute.FAILED, execute.REFUSED, execute.DIFFERS, execute.INTERRUPTED]
    assert len(set(codes)) == len(codes)
    told = Path("docs/reference/command-line.md").read_text()
    for code in codes:
        assert f"\n| {code} |" in told
        assert f"\n  {code}  " in app._CODES


@pytest.mark.parametrize("name", quick(["smc", "beam", "successive_halving"], ["smc"]))
def test_more_candidates_at_once_than_the_memory_holds_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, genscale: Any
) -> None:
    words = ("plan", "a red star", "--sampler", name, "--candidates", 64, "--steps", 8)
    assert genscale(*words)[0] == 0
    monkeypatch.setattr(memory_check, "_memory", lambda: 2**12)
    code, out, err = genscale(*words)
    assert (code, out) == (2, "")
    assert "64 candidates of [" in err
