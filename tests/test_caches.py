"""Caches of diffusers in a search: what they keep belongs to rows, whatever the batches and however rows branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genscale
from genscale import UsageError
from genscale.engine.model_batches import ModelBatches
from genscale.pipelines.cache_rows import CacheRows, joined
from genscale.pipelines.model_caches import caches_of
from genscale.pipelines.serving_driver import ServingDriver
from genscale.protocol.particles import Candidate, Particles
from tests.cached_models import BUILD, CACHES, cached, call_of
from tests.quick import quick

PAIRS = [(family, cache) for family in BUILD for cache in CACHES if (family, cache) != ("flux", "sea")]
CLOSE = 1e-4  # between batch sizes, which round differently
FAR = 1e-2
pytestmark = pytest.mark.filterwarnings("ignore")


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(np.asarray(m).mean()) for m in media]


def search(pipe: Any, family: str, batch_size: int, sampler: str = "best_of_n", **options: Any) -> Any:
    scaled = genscale.scale(pipe, sampler, brightness, batch_size=batch_size, keep=64, **options)
    return scaled.search(**call_of(family))


def finals(result: Any) -> dict[int, Tensor]:
    return {e.candidate.id: e.x for e in result.searches[0].finals}


def largest(a: dict[int, Tensor], b: dict[int, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[i] - b[i]).abs().max()) for i in a)


@pytest.mark.parametrize(("family", "cache"), quick(PAIRS, [("flux", "first_block")], sets=True))
def test_candidates_do_not_depend_on_the_batch_size(family: str, cache: str) -> None:
    """And candidate 0 is the pipeline alone with the same cache, bit for bit."""
    pipe = cached(family, cache)
    alone, together = (search(pipe, family, n, candidates=5) for n in (1, 8))
    assert largest(finals(alone), finals(together)) < CLOSE
    plain = np.asarray(pipe(**call_of(family))[0])
    one = genscale.scale(pipe, "best_of_n", candidates=1)(**call_of(family))
    assert np.array_equal(plain, np.asarray(one[0]))
    pipe.transformer.disable_cache()
    assert np.abs(plain - np.asarray(pipe(**call_of(family))[0])).max() > FAR
    ledger = alone.ledger
    assert 0 < ledger.skipped < ledger.evaluations
    assert ledger.skipped == pytest.approx(together.ledger.skipped)


# ---------------------------------------------------------------- rows that branch


class Log:
    """Every model call of a search, by row: (candidate, step) -> what the model was given, and what it made of it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.met: dict[int, Candidate] = {}
        absorb = ModelBatches.absorb

        def noted(batches: ModelBatches, output: Any) -> None:
            rows = [(c, part.particles.step) for part in batches.evaluated for c in part.particles.candidates]
            for i, (candidate, step) in enumerate(rows):
                self.met[candidate.id] = candidate
                self.calls[candidate.id, step] = output.x[[i]].clone(), output.value[[i]].clone()
            absorb(batches, output)

        patch.setattr(ModelBatches, "absorb", noted)

    def line(self, candidate: Candidate, steps: int) -> list[tuple[Tensor, Tensor]]:
        """The calls that led to a candidate, its ancestors' included, in order."""
        made: list[tuple[Tensor, Tensor]] = []
        for step in reversed(range(steps)):
            while (candidate.id, step) not in self.calls:
                assert candidate.parent is not None
                candidate = self.met[candidate.parent]
            made.append(self.calls[candidate.id, step])
        return made[::-1]


def by_the_pipeline_alone(pipe: Any, family: str, states: list[Tensor]) -> list[Tensor]:
    """What the pipeline's model makes of these latents, one step after the other, without genscale."""
    outputs: list[Tensor] = []

    def step(model_output: Tensor, timestep: Any, sample: Tensor, **more: Any) -> tuple[Tensor]:
        outputs.append(model_output.clone())
        return (states[len(outputs)] if len(outputs) < len(states) else sample,)

    pipe.scheduler.step = step
    try:
        pipe(**call_of(family, latents=states[0]))
    finally:
        del pipe.scheduler.step
    return outputs


def lineages_alone(pipe: Any, family: str, sampler: str, patch: pytest.MonkeyPatch) -> float:
    """The largest difference between what a search computed for a candidate's line and the same line run alone."""
    log = Log(patch)
    result = search(pipe, family, 8, sampler, budget="5images")
    found, branched = 0.0, 0
    for entry in result.searches[0].finals:
        line = log.line(entry.candidate, result.searches[0].process.steps)
        branched += entry.candidate.parent is not None
        alone = by_the_pipeline_alone(pipe, family, [x for x, _ in line])
        found = max(found, *(float((a - b).abs().max()) for a, (_, b) in zip(alone, line, strict=True)))
    assert branched
    return found


BRANCHING = [(*pair, sampler) for pair in PAIRS for sampler in ("smc", "beam", "svdd", "dts_star")]


@pytest.mark.parametrize(
    ("family", "cache", "sampler"),
    quick(BRANCHING, [("flux", "taylor_seer", "beam")], sets=True),
)
def test_a_line_of_candidates_is_what_it_is_alone(
    family: str, cache: str, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lineages_alone(cached(family, cache), family, sampler, monkeypatch) < CLOSE


@pytest.mark.parametrize("cache", quick(["first_block", "taylor_seer"], ["taylor_seer"]))
def test_states_of_other_rows_are_noticed(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: rows get each other's states."""
    kept = ServingDriver._kept
    monkeypatch.setattr(ServingDriver, "_kept", lambda self, batch: kept(self, batch)[::-1])
    assert lineages_alone(cached("flux", cache), "flux", "smc", monkeypatch) > FAR


# ---------------------------------------------------------------- callbacks between rows that are apart


def test_a_callback_that_edits_latents_does_so_after_each_rows_own_step() -> None:
    """Not to the row that is evaluated next in the same step."""

    def halves(pipe: Any, i: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": 0.5 * tensors["latents"]} if i == 1 else {}

    pipe, plain = (
        cached("flux", "first_block"),
        finals(search(cached("flux", "first_block"), "flux", 4, candidates=3)),
    )
    alone, together = (
        finals(
            genscale.scale(pipe, "best_of_n", brightness, candidates=3, batch_size=n, keep=8).search(
                **call_of("flux", callback_on_step_end=halves)
            )
        )
        for n in (1, 4)
    )
    assert largest(alone, together) < CLOSE
    assert all(float((alone[i] - plain[i]).abs().max()) > FAR for i in alone)


def test_an_interrupt_between_rows_that_are_apart_leaves_the_draft_of_each() -> None:
    def stops(at: int) -> Any:
        def callback(pipe: Any, i: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            pipe._interrupt = i == at
            return {}

        return callback

    def drafts(batch_size: int, at: int) -> Any:
        scaled = genscale.scale(
            cached("flux", "first_block"),
            "best_of_n",
            brightness,
            candidates=3,
            batch_size=batch_size,
            keep=8,
        )
        return scaled.search(**call_of("flux", callback_on_step_end=stops(at)))

    found = drafts(4, at=2)  # when one row has made its third step, and two have not
    assert found.stopped == "interrupted"
    assert [e.candidate.details["draft"] for e in found.searches[0].finals] == [2, 2, 2]
    assert torch.equal(finals(found)[0], finals(drafts(1, at=1))[0])
    assert not torch.equal(finals(found)[0], finals(found)[1])


# ---------------------------------------------------------------- resume, verifiers, refusals


@pytest.mark.slow
def test_a_resumed_search_finds_the_same(tmp_path: Any) -> None:
    """What caches held is not in the archive: what is not finished is computed again."""
    pipe, calls = cached("flux", "first_block"), []

    def dies(media: Any, prompts: Any) -> list[float]:
        calls.append(len(media))
        if len(calls) == 3:
            raise KeyError
        return brightness(media, prompts)

    dies.__name__ = dies.__qualname__ = "score"
    given = {"budget": "5images", "batch_size": 4, "keep": 64}
    whole = genscale.scale(pipe, "smc", dies, out=tmp_path / "a", **given)
    calls.extend([0] * 3)
    wanted = whole.search(**call_of("flux"))
    calls.clear()
    killed = genscale.scale(pipe, "smc", dies, out=tmp_path / "b", **given)
    with pytest.raises(genscale.VerifierError):
        killed.search(**call_of("flux"))
    found = killed.search(**call_of("flux"))
    assert largest(finals(found), finals(wanted)) == 0


@pytest.mark.slow
def test_another_cache_is_another_search(tmp_path: Any) -> None:
    pipe = cached("flux", "first_block")
    given = {"candidates": 2, "out": tmp_path}
    genscale.scale(pipe, "best_of_n", brightness, **given).search(**call_of("flux"))
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(CACHES["mag"](pipe))
    with pytest.raises(UsageError, match="another"):
        genscale.scale(pipe, "best_of_n", brightness, **given).search(**call_of("flux"))


@pytest.mark.slow
def test_a_verifier_uses_the_cached_pipeline() -> None:
    pipe = cached("flux", "taylor_seer")
    wanted, found = np.asarray(pipe(**call_of("flux", 7))[0]), []

    def verifier(media: Any, prompts: Any) -> list[float]:
        found.append(np.asarray(pipe(**call_of("flux", 7))[0]))
        return brightness(media, prompts)

    plain = finals(search(pipe, "flux", 4, "smc", budget="5images"))
    result = genscale.scale(pipe, "smc", verifier, budget="5images", batch_size=4, keep=64).search(
        **call_of("flux")
    )
    assert found
    assert all(np.array_equal(wanted, f) for f in found)
    assert largest(plain, finals(result)) == 0


@pytest.mark.slow
def test_several_prompts_are_decided_on_one_by_one() -> None:
    pipe = cached("flux", "first_block")
    prompts = ["a red ball", "a blue box on a table"]
    first, second = (
        genscale.scale(pipe, "best_of_n", brightness, candidates=3, keep=8, batch_size=n).search(
            **call_of("flux", prompt=prompts)
        )
        for n in (1, 8)
    )
    for a, b in zip(first.searches, second.searches, strict=True):
        for x, y in zip(a.finals, b.finals, strict=True):
            assert float((x.x - y.x).abs().max()) < CLOSE


def test_state_that_cannot_be_read_is_refused() -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    class Odd(ModelHook):
        _is_stateful = True

        def reset_state(self, module: Any) -> Any:
            return module

    pipe = BUILD["flux"]()
    HookRegistry.check_if_exists_or_initialize(pipe.transformer).register_hook(Odd(), "odd")
    with pytest.raises(UsageError, match="hook Odd, whose state between calls cannot be read"):
        search(pipe, "flux", 1, candidates=2)


def test_a_cache_without_enable_cache_is_found() -> None:
    from diffusers.hooks import apply_first_block_cache

    pipe = BUILD["flux"]()
    assert not caches_of(pipe.components)
    apply_first_block_cache(pipe.transformer, CACHES["first_block"](pipe))
    assert caches_of(pipe.components).apart


# ---------------------------------------------------------------- rows of a state


class Held:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def states() -> Iterator[tuple[int, Held]]:
    for n in (3, 2):
        x = torch.arange(float(n))
        yield (
            n,
            Held(
                both=torch.stack([x, x + 10]).reshape(2 * n, 1) + 100 * n,  # two guidance copies
                frames=torch.stack([x, x + 10])[:, :, None].repeat(1, 1, 4).reshape(-1, 1) + 100 * n,
                inside=[(x + 100 * n, {"step": 3})],
                batch_size=2 * n,
                shape=torch.Size((2 * n, 5)),
                error=torch.tensor(0.5),
            ),
        )


def test_rows_of_two_calls_are_joined() -> None:
    """Every value names its call and row."""
    calls = [CacheRows.of({(0, "cond"): held}, n, {(0, "cond"): 2}) for n, held in states()]
    assert calls[0].kind == calls[1].kind
    rows = [calls[0].rows()[2], calls[1].rows()[1], calls[0].rows()[2], calls[0].rows()[0]]
    ((cls, made),) = joined(rows).values()
    named = torch.tensor([302.0, 201.0, 302.0, 300.0])
    assert cls is Held
    assert torch.equal(made["both"].flatten(), torch.cat([named, named + 10]))
    assert torch.equal(made["frames"].reshape(2, 4, 4)[:, :, 3].flatten(), torch.cat([named, named + 10]))
    assert torch.equal(made["inside"][0][0], named)
    assert (made["batch_size"], made["shape"], float(made["error"])) == (8, (8, 5), 0.5)


def test_rows_at_other_counts_are_apart() -> None:
    (n, one), (m, other) = states()
    other.inside[0][1]["step"] = 4
    a, b = (CacheRows.of({(0, ""): held}, k, {}) for k, held in ((n, one), (m, other)))
    assert a.kind != b.kind


def test_a_tensor_without_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be taken apart by candidate"):
        CacheRows.of({(0, ""): Held(x=torch.zeros(5, 2))}, 3, {})


def test_particles_carry_what_caches_hold() -> None:
    particles = Particles(torch.zeros(2, 1), 0, (Candidate(0, "own"), Candidate(1, "prior")))
    for i, cache in enumerate(particles.caches):
        cache.after = f"row {i}"
    branched = particles[[1, 1, 0]]
    branched.caches[0].after = "another"
    assert [c.after for c in particles.caches] == ["row 0", "row 1"]
    assert [c.before for c in branched.stepped_caches] == ["another", "row 1", "row 0"]
    assert [c.before for c in Particles.cat([particles, branched]).stepped_caches][:2] == ["row 0", "row 1"]
