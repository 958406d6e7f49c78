"""A scaled pipeline in the place of its pipeline: attributes, methods, copies, pickles."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

import genscale
from genscale import UsageError
from tests.zoo import ZOO


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(np.asarray(m).mean()) for m in media]


def arguments() -> dict[str, Any]:
    seeded = torch.Generator().manual_seed(3)
    return ZOO["stable_diffusion"].arguments(1) | {"output_type": "np", "generator": seeded}


@pytest.fixture
def pipe() -> Any:
    return ZOO["stable_diffusion"].build()


def scale(pipe: Any, **options: Any) -> Any:
    return genscale.scale(pipe, "best_of_n", brightness, candidates=3, **options)


# ---------------------------------------------------------------- methods and attributes


@pytest.mark.parametrize(
    "call",
    [
        lambda pipe: pipe.to("cpu"),
        lambda pipe: pipe.to(torch.float64),
        lambda pipe: pipe.to("cpu", torch.float32),
        lambda pipe: pipe.chained(),
        lambda pipe: pipe.patched(),
    ],
)
def test_a_method_that_returns_the_pipeline_returns_the_scaled_one(pipe: Any, call: Any) -> None:
    """Also one of a subclass, and one that was set on the object."""
    pipe.__class__ = type("Chained", (StableDiffusionPipeline,), {"chained": lambda self: self})
    pipe.patched = lambda: pipe
    scaled = scale(pipe)
    assert call(scaled) is scaled
    assert call(pipe) is pipe


def test_other_methods_are_the_pipelines(pipe: Any) -> None:
    scaled = scale(pipe)
    scaled.enable_attention_slicing()
    assert scaled.components == pipe.components
    assert scaled.vae is pipe.vae
    assert scaled.from_pipe.__self__ is type(pipe)
    scaled.vae.enable_tiling()
    assert pipe.vae.use_tiling
    assert str(inspect.signature(scaled.encode_prompt)) == str(inspect.signature(pipe.encode_prompt))


def test_attributes_are_set_and_deleted_on_the_pipeline(pipe: Any) -> None:
    scaled = scale(pipe)
    new = DDIMScheduler.from_config(pipe.scheduler.config)
    scaled.scheduler = new
    assert pipe.scheduler is new
    assert pipe.config["scheduler"] == ("diffusers", "DDIMScheduler")
    searched = scaled(**arguments()).images
    assert np.array_equal(searched, scale(pipe)(**arguments()).images)
    scaled.note = 1
    assert pipe.note == 1
    del scaled.note
    assert not hasattr(pipe, "note")
    assert not hasattr(scaled, "note")


@pytest.mark.parametrize("name", ["budget", "sampler", "pipe", "settings", "on_event", "busy"])
def test_the_settings_of_a_search_are_fixed(pipe: Any, name: str) -> None:
    scaled = scale(pipe)
    for change in (lambda: setattr(scaled, name, None), lambda: delattr(scaled, name)):
        with pytest.raises(UsageError, match=f"'{name}' of a scaled pipeline is fixed: make another one"):
            change()
    assert getattr(scaled, name) is not None


def test_it_looks_like_its_pipeline(pipe: Any) -> None:
    scaled = scale(pipe, budget="99nfe")
    assert isinstance(scaled, DiffusionPipeline)
    assert isinstance(scaled, type(pipe))
    assert isinstance(scaled, genscale.Scaled)
    assert not isinstance(pipe, genscale.Scaled)
    assert inspect.signature(scaled) == inspect.signature(pipe)
    assert {*dir(pipe), "search", "plan", "sampler"} <= set(dir(scaled))
    assert hasattr(scaled, "unet")
    assert not hasattr(scaled, "transformer")
    with pytest.raises(TypeError):
        len(scaled)
    said = repr(scaled)
    assert said.startswith("genscale.scale(StableDiffusionPipeline, BestOfN(candidates=3")
    assert said.endswith("search=['brightness'], budget='99nfe')")
    assert type(StableDiffusionImg2ImgPipeline.from_pipe(scaled)) is StableDiffusionImg2ImgPipeline


def test_scaling_twice_puts_the_new_search_in_place_of_the_old(pipe: Any) -> None:
    twice = scale(genscale.scale(pipe, "smc", brightness))
    assert twice.pipe is pipe
    assert np.array_equal(twice(**arguments()).images, scale(pipe)(**arguments()).images)
    mixed = [
        genscale.scale(pipe, mix="weak:-0.5", models={"weak": weak}, candidates=1)
        for weak in (pipe, scale(pipe))
    ]
    assert np.array_equal(*(m(**arguments()).images for m in mixed))


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_has_a_copy_of_the_pipeline_and_the_same_search(pipe: Any, how: Any) -> None:
    scaled = scale(pipe, budget="99nfe")
    copied, alone = how(scaled), how(pipe)
    assert type(copied) is genscale.Scaled
    assert type(copied.pipe) is type(pipe)
    assert copied.pipe is not pipe
    assert (copied.unet is pipe.unet) == (alone.unet is pipe.unet)
    assert repr(copied) == repr(scaled)
    assert np.array_equal(copied(**arguments()).images, scaled(**arguments()).images)
    copied.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    assert pipe.scheduler is not copied.scheduler


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"on_event": lambda event: None}, "on_event"),
        ({"halt": threading.Event().is_set}, "halt"),
        ({"select": lambda media, prompts: brightness(media, prompts)}, "verifier '<lambda>'"),
    ],
)
def test_what_cannot_be_pickled_is_named_and_is_shared_by_copies(
    pipe: Any, options: dict[str, Any], part: str
) -> None:
    scaled = scale(pipe, **options)
    with pytest.raises(UsageError, match=f"the {part} of this scaled pipeline cannot be pickled"):
        pickle.dumps(scaled)
    assert copy.deepcopy(scaled).settings.on_event is scaled.settings.on_event
    assert np.array_equal(copy.deepcopy(scaled)(**arguments()).images, scaled(**arguments()).images)


# ---------------------------------------------------------------- results

SEARCHES = {
    "best_of_n": {},
    "smc": {},
    "rollover": {},
    "evolution": {"ensemble": "rank"},
    "beam": {"stop": "patience:2", "held_out": lambda media, prompts: [0.5] * len(prompts)},
    "fkc": {"mix": "prompt=a dog:0.3"},
}


@pytest.mark.parametrize("sampler", SEARCHES)
def test_a_result_is_pickled_and_copied_with_all_that_was_found(
    sampler: str, pipe: Any, tmp_path: Path
) -> None:
    options = SEARCHES[sampler]
    output = genscale.scale(pipe, sampler, brightness, budget="6images", keep=2, **options)(**arguments())
    found = output.search

    def facts(result: Any) -> tuple[Any, ...]:
        ranking = result.ranking()
        population = result.population()
        return (
            repr(result), result.prompts, result.summary(), result.kl(), result.judges, result.limit, result.base_nfe,
            [result.total(e) for e in ranking], [e.candidate for e in ranking], len(result.entries),
            result.stopped_by(), result.ledger, result.describe(),
            None if population is None else population.candidates,
            [None if e.x is None else e.x.tolist() for e in ranking],
        )  # fmt: skip

    for made in (copy.copy(output), copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert np.array_equal(made.images, output.images)
        assert type(made) is type(output)
        assert facts(made.search) == facts(found)
    deep, pickled = copy.deepcopy(found), pickle.loads(pickle.dumps(found))
    assert deep.best.x is not found.best.x
    assert np.array_equal(deep.media(deep.ranking()[:1]).pixels, found.media(found.ranking()[:1]).pixels)
    deep.save(tmp_path / "run")
    for ask in (lambda: pickled.media(pickled.ranking()[:1]), lambda: pickled.save(tmp_path / "other")):
        with pytest.raises(UsageError, match="a pickle does not hold the pipeline"):
            ask()
    assert not (tmp_path / "other").exists()
    assert len(pickle.dumps(output)) < 10 * output.images.nbytes + 200_000  # no pipeline is inside


def test_the_tuple_of_a_call_is_pickled_too(pipe: Any) -> None:
    images, _, search = pickle.loads(pickle.dumps(scale(pipe)(**arguments(), return_dict=False)))
    assert len(images) == 1
    assert search.best.final
