"""Calls from Python that cannot be carried out: one UsageError, nothing written, the pipeline as it was."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.plugins import options, registry
from genscale.protocol.interfaces import SamplerHooks
from tests.bad_commands import FREE_TEXT
from tests.zoo import ZOO

NAN, INF = math.nan, math.inf
WRONG: dict[Any, list[Any]] = {
    int: [-1, 1.5, NAN, True, "4", None, 10**9, 10**30, [1], {}, torch.ones(2), object()],
    float: [NAN, True, "0.5", 1e300, -1e300, [0.5], {}, torch.ones(2), 1j, object()],
    bool: [1, 0, "yes", None, 2.0],
    str: [3, True, "nonsense", "", ["ddim"], object()],
}
"""Values that an option of that type never takes."""
SETTINGS: dict[str, list[Any]] = {
    "sampler": ["nope", "", 3, None, object(), ["smc"], genscale.Candidate],
    "verifier": [
        "nope",
        "",
        3,
        {},
        object(),
        ("shapes",),
        ("shapes", "x"),
        ("shapes", NAN),
        ("shapes", 1, 2),
        ["shapes", "shapes"],
        registry.load("verifier", "shapes"),
        [["shapes"]],
        [None],
        ("shapes", True),
    ],
    "select": ["nope", 3, ("shapes", INF)],
    "held_out": ["nope", 3, [object()]],
    "ensemble": ["nope", "", 3, None, ["rank"]],
    "require": ["nope", "", 3, ["shapes"], "nope<1", "shapes<nan", True],
    "abstain": ["x", "", True, NAN, INF, -1, "2sd", [1]],
    "category_weights": [
        3,
        "x",
        ["a"],
        {"nope": {}},
        {"counting": 3},
        {"counting": {"nope": 1}},
        {"text": {"shapes": NAN}},
    ],
    "budget": [100, 1.5, True, "", "x", "5", "0nfe", "nans", {}, ["16images"], object(), NAN, "target=nan"],
    "stop": [3, "", "x", "patience:0", ["patience:3", 4], object(), {"patience": 3}, True],
    "batch_size": [0, -1, 1.5, "4", None, NAN, True, 10**9, INF],
    "decode_batch": [0, -1, 1.5, "4", NAN, True, 10**9, False],
    "keep": [0, -1, 1.5, "4", None, NAN, True, 10**9],
    "out": [3, "", True, ["x"], b"x", "n" * 300, "a\0b", __file__],
    "on_event": [3, "print", []],
    "halt": [3, True, "x"],
    "mix": [3, "", "x", "base:nan", ["base:inf"], [3], object(), {}],
    "guide": [3, "", "nope", "cfg(nan)", object(), ["cfg(1)"]],
    "models": [3, "x", ["a"]],
    "nonsense": [1],
}
ARGUMENTS: dict[str, list[Any]] = {
    "num_inference_steps": [0, -1, 10**9, 10_001, 2.5, NAN, "4", True, [4]],
    "guidance_scale": [NAN, INF, -INF, 1e300],
    "width": [0, -16, 10**9, 100_000, 16.5, "16", True],
    "height": [0, -16, 10**9, NAN],
    "num_images_per_prompt": [0, -1, 10**9, 1.5, "2", True],
    "eta": [NAN],
    "timesteps": [list(range(20_000))],
    "promt": ["a star"],
    "prompt": [[], ()],
    "generator": [3, "x", [], [3], [torch.Generator(), None]],
    "latents": ["x", 3, [1]],
    "callback_on_step_end": [3, "x"],
}


@dataclass(frozen=True)
class Own:
    """A sampler and a verifier of a user, whose fields say what they are."""

    count: int = 1
    share: float = 0.5

    needs: ClassVar[frozenset[str]] = frozenset()

    def search(self, process: Any, key: Any) -> Iterator[Any]:
        raise AssertionError("nothing is searched here")
        yield

    def __call__(self, media: Any, prompts: Any) -> Any:
        raise AssertionError("nothing is scored here")


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = ZOO["stable_diffusion"].build()
    made.set_progress_bar_config(disable=True)
    return made


def call(pipe: Any, settings: dict[str, Any], arguments: dict[str, Any] | None = None) -> Any:
    given = {"prompt": "a red star", "num_inference_steps": 2, "width": 16, "height": 16, **(arguments or {})}
    made = {"verifier": "compressibility", "candidates": 2, **settings}
    if "sampler" in settings:
        del made["candidates"]
    return genscale.scale(pipe, **made)(**given, output_type="np")


Bad = tuple[str, Callable[[Any], Any]]


def of_settings() -> Iterator[Bad]:
    for name, values in SETTINGS.items():
        for value in values:
            yield f"{name}={value!r}", lambda pipe, n=name, v=value: call(pipe, {n: v})


def of_arguments() -> Iterator[Bad]:
    for name, values in ARGUMENTS.items():
        for value in values:
            yield f"call {name}={value!r}", lambda pipe, n=name, v=value: call(pipe, {}, {n: v})


def of_options(kind: str) -> Iterator[Bad]:
    """Every option of every sampler or verifier, by name and as an object."""
    for name in registry.found(kind):
        cls = registry.load(kind, name)
        if not cls.__module__.startswith("genscale."):
            continue
        for option, hint in options.field_types(cls).items():
            values = WRONG.get(hint, []) if option not in FREE_TEXT else [3, True, object()]
            for value in values:
                yield (
                    f"{name}({option}={value!r})"[:60],
                    lambda pipe, k=kind, n=name, o=option, v=value: call(
                        pipe,
                        {"sampler": n, o: v} if k == "sampler" else {"verifier": registry.make(k, n, {o: v})},
                    ),
                )


def of_objects() -> Iterator[Bad]:
    """Objects of users: what their annotations say is checked when `scale` gets them."""
    for option, values in (("count", [1.5, NAN, "4", True, None]), ("share", [NAN, "x", True, None])):
        for value in values:
            yield (
                f"Own({option}={value!r})",
                lambda pipe, o=option, v=value: call(pipe, {"sampler": Own(**{o: v})}),
            )
            yield (
                f"Own({option}={value!r}) judges",
                lambda pipe, o=option, v=value: call(pipe, {"verifier": Own(**{o: v})}),
            )


def named(name: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", name)


def table() -> list[Bad]:
    sampled = [*of_options("sampler"), *of_options("verifier")]
    cases = [*of_settings(), *of_arguments(), *of_objects(), *random.Random(0).sample(sampled, 400)]
    return [(named(name), run) for name, run in cases]


CASES = table()


def state(pipe: Any) -> tuple[Any, ...]:
    """All that a call could leave behind in a pipeline."""
    parts = [(name, id(part)) for name, part in sorted(pipe.components.items())]
    modules = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in modules]
    return (
        type(pipe),
        parts,
        hooks,
        sorted(vars(pipe)),
        sorted(vars(pipe.scheduler)),
        dict(pipe.scheduler.config),
    )


def fault(case: Bad, pipe: Any) -> str:
    """What is wrong with how a call is refused; "" if nothing is."""
    name, run = case
    before, files = state(pipe), set(Path.cwd().rglob("*"))
    try:
        run(pipe)
    except UsageError as error:
        wrong = (
            "" if "\n" not in str(error).strip() and str(error).strip() else f"not one sentence: {error!r}"
        )
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    else:
        wrong = "was accepted"
    if state(pipe) != before:
        wrong += ", and left the pipeline changed"
    if set(Path.cwd().rglob("*")) != files:
        wrong += ", and wrote something"
    return f"{name}: {wrong}" if wrong else ""


@pytest.mark.parametrize("start", range(0, len(CASES), 60))
def test_bad_calls_are_one_sentence(
    start: int, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [wrong for case in CASES[start : start + 60] if (wrong := fault(case, pipe))]
    assert not found, "\n".join(found)


def test_a_good_call_after_them_gives_what_the_untouched_pipeline_gives(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.chdir(tmp_path)

    def picture(made: Any) -> Any:
        generator = torch.Generator().manual_seed(3)
        return made(
            "a red star", num_inference_steps=2, width=16, height=16, generator=generator, output_type="np"
        ).images

    for case in random.Random(2).sample(CASES, 20):
        fault(case, pipe)
    fresh = ZOO["stable_diffusion"].build()
    fresh.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(picture(pipe), picture(fresh))
    assert SamplerHooks.of(Own()).needs == frozenset()


def test_the_table_is_long_and_seeded() -> None:
    assert len(CASES) >= 150
    assert [name for name, _ in table()] == [name for name, _ in CASES]
