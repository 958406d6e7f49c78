"""RemaskingScheduler: the enumerated law, and aMUSEd with tokens that are masked again."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale import UsageError
from genscale.diffusion.remasking import (
    LOOP,
    Remasking,
)
from tests.test_black_box import brightness, fresh, same, token_pipeline
from tests.toy_tokens import CLEAN, LENGTH, MASK, ROWS, STATES, bound, enumerated, number, p_value


def stepped(scheduler: Any, tokens: Tensor, steps: int, ratio: float = 1.0, seed: int = 0) -> list[Tensor]:
    generator, found = torch.Generator().manual_seed(seed), []
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        toy = tokens.shape[1] == LENGTH
        state = number(tokens) if toy else tokens.sum(-1) % len(STATES)
        logits = CLEAN[state].log().repeat(1, 10, 1)[:, : tokens.shape[1]]
        tokens = scheduler.step(logits, t, tokens, ratio, generator).prev_sample
        found.append(tokens)
    return found


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_scheduler_samples_the_enumerated_law(schedule: str) -> None:
    steps = 5
    shares = [i / steps for i in range(steps + 1)]
    alphas = shares if schedule == "linear" else [1 - math.cos(v * math.pi / 2) for v in shares]
    scheduler = genscale.RemaskingScheduler(
        mask_token_id=MASK, masking_schedule=schedule, order="random", eta=1.0
    )
    found = stepped(scheduler, torch.full((ROWS, LENGTH), MASK), steps)
    laws = enumerated(tuple(alphas), bound)
    assert all(p_value(tokens, law) > 1e-3 for tokens, law in zip(found, laws, strict=True))
    scheduler = genscale.RemaskingScheduler.from_config(scheduler.config, eta=0.5)  # broken twin
    wrong = stepped(scheduler, torch.full((ROWS, LENGTH), MASK), steps)
    assert min(p_value(tokens, law) for tokens, law in zip(wrong, laws, strict=True)) < 1e-3


@pytest.mark.parametrize("given", [{"eta": 1.0}, {"rule": "cap", "eta": 0.5}, {"rule": "conf"}])
def test_in_the_order_of_confidence_the_schedule_holds_exactly(given: dict[str, Any]) -> None:
    from diffusers import AmusedScheduler

    start = torch.full((50, 20), MASK)
    plain = stepped(AmusedScheduler(mask_token_id=MASK), start, 8)
    found = stepped(genscale.RemaskingScheduler(mask_token_id=MASK, **given), start, 8)
    again = [((b == MASK) & (a != MASK)).sum() for a, b in itertools.pairwise(found)]
    for one, other in zip(plain, found, strict=True):
        assert torch.equal((one == MASK).sum(-1), (other == MASK).sum(-1))
    assert sum(again) > 0
    assert not any(((b == MASK) & (a != MASK)).any() for a, b in itertools.pairwise(plain))


def test_in_the_loop_alpha_stays() -> None:
    loop = (0.75, 0.25, 0.5)
    scheduler = genscale.RemaskingScheduler(
        mask_token_id=MASK, masking_schedule="linear", rule="cap", eta=0.5, loop=loop
    )
    found = stepped(scheduler, torch.full((20, 30), MASK), 8)
    counts = [(tokens == MASK).sum(-1) for tokens in found]
    for i, count in enumerate(counts[:-1]):
        alpha = 1 - Remasking(loop=loop).warped((i + 1) / 8, loop[2])  # of a linear schedule
        assert bool((count <= math.floor(30 * alpha)).all())
        assert bool((count >= math.floor(30 * alpha) - 1).all())  # a step commits one more at least
    assert [int(c[0]) for c in counts[2:6]] == [15] * 4
    again = [
        int(((b == MASK) & (a != MASK)).sum()) for a, b in itertools.pairwise(found)
    ]  # after steps 2 to 8, which begin at 0.875, 0.75, ...
    assert [n > 0 for n in again] == [False, True, True, True, True, False, False]


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_given_tokens_are_never_masked(order: str) -> None:
    start = torch.full((50, 20), MASK)
    start[:, ::4] = 1
    scheduler = genscale.RemaskingScheduler(mask_token_id=MASK, eta=1.0, order=order)
    found = stepped(scheduler, start, 8, ratio=0.75)
    assert all(bool((tokens[:, ::4] == 1).all()) for tokens in found)
    assert not bool((found[-1] == MASK).any())
    assert any(((b == MASK) & (a != MASK)).any() for a, b in itertools.pairwise(found))


def test_the_masking_schedule_of_inpainting_is_taken_over() -> None:
    from diffusers import AmusedScheduler

    plain = AmusedScheduler(mask_token_id=MASK)
    plain.register_to_config(masking_schedule="linear")  # as AmusedInpaintPipeline does
    assert AmusedScheduler.from_config(plain.config).config.masking_schedule == "cosine"
    assert genscale.RemaskingScheduler.from_config(plain.config).config.masking_schedule == "linear"


# ------------------------------------------------------------------------------ in a pipeline

CALL = {"num_inference_steps": 6, "height": 8, "width": 8, "guidance_scale": 3.0}


def tokens_of(pipe: Any, seed: int = 0) -> list[Tensor]:
    """The tokens after each step, the last of which the pipeline returns."""
    seen: list[Tensor] = []
    made = pipe(
        "a cat", generator=fresh(seed), output_type="latent", callback=lambda i, t, x: seen.append(x), **CALL
    )
    assert torch.equal(made.images, seen[-1])
    return seen


def test_without_remasking_it_is_the_pipeline_bit_for_bit() -> None:
    pipe = token_pipeline()
    plain = tokens_of(pipe)
    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, eta=0.0)
    assert all(torch.equal(a, b) for a, b in zip(plain, tokens_of(pipe), strict=True))
    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, eta=1.0)  # the twin
    assert not torch.equal(plain[-1], tokens_of(pipe)[-1])


@pytest.mark.parametrize(
    "given",
    [
        {"eta": 1.0},
        {"order": "random", "eta": 0.7},
        pytest.param({"rule": "cap", "eta": 0.3}, marks=pytest.mark.slow),
        pytest.param({"rule": "conf"}, marks=pytest.mark.slow),
        {"rule": "cap", "eta": 0.2, "loop": (0.55, 0.05, 0.5)},
    ],
)
def test_committed_tokens_change_in_a_pipeline(given: dict[str, Any]) -> None:
    pipe = token_pipeline()
    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, **given)
    found, mask = tokens_of(pipe), pipe.scheduler.mask
    assert any(bool(((a != mask) & (b == mask)).any()) for a, b in itertools.pairwise(found))
    early = next(tokens for tokens in found if bool((tokens != mask).any()))
    assert not bool((found[-1] == mask).any())
    assert all(torch.equal(a, b) for a, b in zip(found, tokens_of(pipe), strict=True))  # by the generator
    assert not torch.equal(found[-1], tokens_of(pipe, 1)[-1])
    if given.get("eta") == 1.0:
        assert bool(((early != mask) & (early != found[-1])).any())


@pytest.mark.slow
def test_it_is_searched_and_resumed(tmp_path: Path) -> None:
    pipe = token_pipeline()
    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, eta=0.5)
    plain = pipe("a cat", generator=fresh(), **CALL).images[0]

    def search(n: int, out: Path | None) -> Any:
        with pytest.warns(UserWarning, match="called as a whole"):
            return genscale.scale(pipe, "best_of_n", brightness, candidates=n, out=out).search(
                "a cat", generator=fresh(), **CALL
            )

    whole = search(4, None)
    assert same(whole.media([whole.base()])[0], plain)
    search(4, tmp_path)
    again = search(4, tmp_path)
    assert [e.total for e in again.ranking()] == [e.total for e in whole.ranking()]
    assert again.ledger.nfe == 0
    assert len({e.total for e in whole.ranking()}) > 1


@pytest.mark.slow
def test_it_is_an_arm_by_name() -> None:
    pipe = token_pipeline()
    arms = genscale.scale(
        pipe, "arms", brightness, arms=[{}, {"scheduler": "RemaskingScheduler"}], candidates=4
    )
    with pytest.warns(UserWarning, match="called as a whole"):
        found = arms.search("a cat", generator=fresh(), **CALL)
    assert len(found.ranking()) == 4
    other = genscale.load_pipeline("shapes-flow")
    with pytest.raises(UsageError, match=r"masks tokens again, and .* makes no tokens"):
        genscale.scale(other, "arms", brightness, arms=[{"scheduler": "RemaskingScheduler"}], candidates=1)(
            "a", num_inference_steps=2
        )


def test_it_is_saved_copied_and_pickled(tmp_path: Path) -> None:
    made = genscale.RemaskingScheduler(mask_token_id=31, rule="cap", loop=LOOP)
    made.save_pretrained(tmp_path)
    for other in (
        genscale.RemaskingScheduler.from_pretrained(tmp_path),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
    ):
        assert type(other) is genscale.RemaskingScheduler
        assert (other.config.rule, tuple(other.config.loop), other.config.eta) == ("cap", LOOP, None)
