"""Batches evaluated in groups of exactly the call's own rows, and loops that can be searched in no other way."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import genscale
from genscale.pipelines.batch_parts import in_batch_order, own_rows
from tests.test_exceptions import brightness, loop_of


@pytest.mark.parametrize("seed", range(30))
def test_the_parts_are_the_batch(seed: int) -> None:
    rng = random.Random(seed)
    rows = rng.randint(1, 4)
    prompts = tuple(rng.randrange(rows) for _ in range(rng.randint(1, 12)))
    x = torch.randn(len(prompts), 2, generator=torch.Generator().manual_seed(seed))
    parts = own_rows(prompts, rows)
    assert len(parts) == max(prompts.count(p) for p in range(rows))
    results = []
    for part in parts:
        called = part.to_call(x)
        assert len(called) == rows
        for i in part.rows[: part.wanted]:  # what is asked for is in the row of its own prompt
            assert torch.equal(called[prompts[i]], x[i])
        results.append(part.from_call(2 * called))
        assert part.evaluations(2 * rows) == 2 * part.wanted
    assert torch.equal(in_batch_order(parts, results), 2 * x)
    assert sum(part.wanted for part in parts) == len(prompts)


# ---------------------------------------------------------------- loops


def with_a_picture(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    """Joins what belongs to the call's own rows to the latents, by a shape that no other number of rows has."""
    own = pipe.own_rows_of(x)
    return pipe.scheduler.step(pipe.unet(x + own, t, embeds).sample, t, x).prev_sample


def searchable(rows: int, step: Callable[..., Any] = with_a_picture) -> Any:
    """A pipeline that takes only its own number of rows, in its loop and in its call."""
    pipe = loop_of(step)
    picture = 0.3 * torch.randn(1, 4, 1, 1, generator=torch.Generator().manual_seed(5))

    def own_rows_of(x: torch.Tensor) -> torch.Tensor:
        if len(x) != rows:
            raise RuntimeError(f"The size of tensor a ({len(x)}) must match the size of tensor b ({rows})")
        return picture.expand(rows, 4, 1, 1)

    pipe.own_rows_of = own_rows_of
    return pipe


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_candidates_are_those_of_separate_calls(rows: int) -> None:
    """Whatever the batch size; the pipeline's own path bit for bit."""
    pipe = searchable(rows)
    call = {"prompt": ["a red cube", "a blue ball", "a boat"][:rows], "output_type": "np"}
    alone = pipe(**call, generator=torch.Generator().manual_seed(1)).images
    found = []
    for batch_size in (1, 2, 7):
        scaled = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=batch_size)
        search = scaled(**call, generator=torch.Generator().manual_seed(1)).search
        assert np.array_equal(
            search.media([s.finals[0] for s in search.searches]).pixels.movedim(1, -1), alone
        )
        assert [s.spent for s in search.searches] == [3 * sum(s.process.evaluations) for s in search.searches]
        found.append({(e.prompt, e.candidate.id): e.total for e in search.entries})
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert found[0] == pytest.approx(found[2], abs=1e-3)


def in_place(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    """Writes what a step returns into its own latents, of which the step was given a view."""
    value = pipe.unet(x + pipe.own_rows_of(x), t, embeds).sample
    x[:, :] = pipe.scheduler.step(value, t, x[:, :]).prev_sample
    return x


@pytest.mark.parametrize("rows", [1, 2])
def test_latents_that_are_written_over_are_not_mixed_up(rows: int) -> None:
    pipe, totals = searchable(rows, in_place), []
    call = {"prompt": ["a red cube", "a blue ball"][:rows], "output_type": "np"}
    for batch_size in (1, 4):
        scaled = genscale.scale(pipe, verifier=brightness, candidates=4, batch_size=batch_size)
        search = scaled(**call, generator=torch.Generator().manual_seed(1)).search
        totals.append({(e.prompt, e.candidate.id): e.total for e in search.entries})
    assert len(set(totals[0].values())) == 4 * rows
    assert totals[0] == pytest.approx(totals[1], abs=1e-3)


@pytest.mark.parametrize("sampler", ["smc", "dts_star"])
def test_samplers_that_jump_back_agree(sampler: str) -> None:
    pipe = searchable(1)
    totals = []
    for batch_size in (1, 4):
        scaled = genscale.scale(pipe, sampler, brightness, candidates=4, batch_size=batch_size)
        search = scaled("a red cube", output_type="np", generator=torch.Generator().manual_seed(1)).search
        totals.append(sorted(e.total for e in search.entries))
    assert totals[0] == pytest.approx(totals[1], abs=1e-3)


# ---------------------------------------------------------------- what a loop reads besides outputs


def reads_attention(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    """Guides by what the denoiser left behind in this call, as self-attention guidance does."""
    pipe.unet.left = None
    value = pipe.unet(x, t, embeds).sample
    return pipe.scheduler.step(value + 0.1 * pipe.unet.left.chunk(1)[0], t, x).prev_sample


def test_what_a_denoiser_leaves_behind_is_there_whenever_the_loop_runs() -> None:
    pipe = loop_of(reads_attention)
    forward = pipe.unet.forward

    def leaving(x: Any, *args: Any, **kwargs: Any) -> Any:
        pipe.unet.left = x.mean(1, keepdim=True)
        return forward(x, *args, **kwargs)

    pipe.unet.forward = leaving
    call = {"prompt": "a red cube", "output_type": "np"}
    alone = pipe(**call, generator=torch.Generator().manual_seed(1)).images
    scaled = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=1)
    search = scaled(**call, generator=torch.Generator().manual_seed(1)).search
    assert np.array_equal(search.media([search.base()]).pixels.movedim(1, -1).numpy(), alone)
    assert search.ledger.probes > 0  # the calls that only find the way are counted


def copies_its_scheduler(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    copy.deepcopy(pipe.scheduler.__dict__)
    return pipe.scheduler.step(pipe.unet(x, t, embeds).sample, t, x).prev_sample


def steps_twice(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    value = pipe.unet(x, t, embeds).sample
    copy.deepcopy(pipe.scheduler).step(value, t, x)
    return pipe.scheduler.step(value, t, x).prev_sample


@pytest.mark.parametrize("step", [copies_its_scheduler, steps_twice])
def test_a_loop_may_copy_its_scheduler_but_not_step_the_copy(step: Callable[..., Any]) -> None:
    pipe = loop_of(step)
    call = {"prompt": "a red cube", "output_type": "np"}
    scaled = genscale.scale(pipe, verifier=brightness, candidates=1)
    alone = pipe(**call, generator=torch.Generator().manual_seed(1)).images
    if step is steps_twice:  # then the pipeline is called as a whole
        with pytest.warns(UserWarning, match="with a copy of its"):
            found = scaled(**call, generator=torch.Generator().manual_seed(1)).images
        assert np.allclose(np.asarray(found[0], np.float32) / 255, alone[0], atol=1 / 255)
        return
    assert np.array_equal(scaled(**call, generator=torch.Generator().manual_seed(1)).images, alone)
