"""Searches that workers do: the same candidates, scores, winners and records as in one process, whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import genscale
from genscale.engine.archive import read_archive
from genscale.engine.events import Denoised, Event, Scored
from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import registry
from genscale.protocol.interfaces import SamplerHooks
from tests.quick import quick

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CALL: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0}
PROMPTS = ["a red star", "two blue rings"]
SEARCH: dict[str, Any] = {"budget": "5images", "batch_size": 3}
ROUNDING = 1e-5  # of a score, where rows are divided into other batches

GRADIENTS = [
    n
    for n in genscale.list_samplers()
    if "gradient" in SamplerHooks.of(registry.make("sampler", n, {})).needs
]
ASKS = ("das", "tds")  # for gradients, as their options say
SPREAD = [
    n for n in genscale.list_samplers() if n not in (*GRADIENTS, *ASKS, "accept_reject", "ab_mcts", "fkc")
]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return genscale.load_pipeline("shapes-flow")


@pytest.fixture(scope="module")
def workers() -> Iterator[genscale.Processes]:
    made = genscale.Processes(2, threads=1, method="fork")
    yield made
    made.close()


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def records(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The scores of an archive, by prompt, candidate and step."""
    found = {}
    for line in read_archive(folder):
        if "scores" in line:
            kept = {k: v for k, v in line.items() if k not in ("seconds", "nfe", "scores", "total", "x")}
            found[line["prompt"], str(line["candidate"]), line["step"]] = kept | {"scores": line["scores"]}
    return found


def searched(result: Any) -> int:
    """NFE of the search; what was found out about the pipeline before differs."""
    return int(result.ledger.evaluations - result.ledger.probes)


def assert_same(one: Any, other: Any) -> None:
    """The same candidates in the same order, with scores that differ by rounding."""
    for a, b in zip(one.searches, other.searches, strict=True):
        assert a.spent == b.spent
        first, second = a.ranking(), b.ranking()
        scores = {e.candidate.id: next(iter(e.scores.values())) for e in second}
        assert {e.candidate.id: e.candidate for e in first} == {e.candidate.id: e.candidate for e in second}
        for e, f in zip(
            first, second, strict=True
        ):  # the same order, but of those that are alike up to rounding
            assert e.scores == pytest.approx(f.scores, abs=ROUNDING)
            assert scores[e.candidate.id] == pytest.approx(next(iter(e.scores.values())), abs=ROUNDING)


@pytest.mark.parametrize("name", quick(SPREAD, ["best_of_n", "smc", "dts_star"]))
def test_the_winners_of_workers_are_those_of_one_process(
    name: str, pipe: Any, workers: Any, tmp_path: Path
) -> None:
    found = []
    for executor in (None, workers):
        out = tmp_path / ("one" if executor is None else "spread")
        scaled = genscale.scale(pipe, name, "shapes_clip", executor=executor, out=out, **SEARCH)
        output = scaled(PROMPTS, generator=seeded(), output_type="pt", **CALL)
        found.append(output)
    one, spread = found
    assert_same(one.search, spread.search)
    for i, (a, b) in enumerate(zip(one.search.searches, spread.search.searches, strict=True)):
        if a.ranking()[0].candidate == b.ranking()[0].candidate:  # else two that are alike up to rounding
            assert (one.images[i] - spread.images[i]).abs().max() < 1e-3
    assert searched(one.search) == searched(spread.search)
    alone, shared = records(tmp_path / "one"), records(tmp_path / "spread")
    assert alone.keys() == shared.keys()
    for key, line in alone.items():
        assert {**line, "scores": 0} == {**shared[key], "scores": 0}
        assert line["scores"] == pytest.approx(shared[key]["scores"], abs=ROUNDING)


@pytest.mark.parametrize("name", quick(ASKS, []))
def test_gradients_that_are_asked_for_on_the_way_are_refused(name: str, pipe: Any, workers: Any) -> None:
    scaled = genscale.scale(pipe, name, "shapes_clip", executor=workers, **SEARCH)
    with pytest.raises(UsageError, match="asks for gradients"):
        scaled.search(PROMPTS, generator=seeded(), **CALL)


def test_one_candidate_is_the_pipelines_own(pipe: Any, workers: Any) -> None:
    plain = pipe(PROMPTS, generator=seeded(), output_type="pt", **CALL).images
    scaled = genscale.scale(pipe, "best_of_n", "shapes_clip", candidates=1, executor=workers)
    spread = scaled(PROMPTS, generator=seeded(), output_type="pt", **CALL).images
    assert (plain - spread).abs().max() < 1e-4


def killing(workers: genscale.Processes, every: int) -> Any:
    """An event handler that kills the workers in turn, one at every so many events."""
    seen = {"events": 0, "kills": 0}

    def on_event(event: Event) -> None:
        seen["events"] += isinstance(event, Denoised | Scored)
        if seen["events"] % every == 0 and workers._crew is not None:
            link: Any = workers._crew._workers[seen["kills"] % 2].link
            os.kill(link._process.pid, signal.SIGKILL)
            seen["kills"] += 1

    return on_event, seen


@pytest.mark.parametrize("name", quick(["best_of_n", "smc", "dts_star"], ["smc"]))
def test_workers_that_are_killed_change_nothing(name: str, pipe: Any, workers: Any) -> None:
    expected = genscale.scale(pipe, name, "shapes_clip", **SEARCH).search(PROMPTS, generator=seeded(), **CALL)
    on_event, seen = killing(workers, 4)
    scaled = genscale.scale(pipe, name, "shapes_clip", executor=workers, on_event=on_event, **SEARCH)
    found = scaled.search(PROMPTS, generator=seeded(), **CALL)
    assert seen["kills"] >= 3
    assert_same(expected, found)
    assert searched(found) == searched(expected)  # work that was lost is not counted


def test_a_search_goes_on_with_another_number_of_workers(pipe: Any, workers: Any, tmp_path: Path) -> None:
    expected = genscale.scale(pipe, "smc", "shapes_clip", **SEARCH).search(
        PROMPTS, generator=seeded(), **CALL
    )
    events = []

    def interrupt(event: Event) -> None:
        events.append(event)
        if len(events) == 7:
            raise ConnectionError("the driver dies")

    options = {"out": tmp_path / "run", **SEARCH}
    with pytest.raises(ConnectionError):
        genscale.scale(pipe, "smc", "shapes_clip", executor=workers, on_event=interrupt, **options).search(
            PROMPTS, generator=seeded(), **CALL
        )
    fresh: list[Event] = []
    scaled = genscale.scale(pipe, "smc", "shapes_clip", on_event=fresh.append, **options)
    found = scaled.search(PROMPTS, generator=seeded(), **CALL)
    assert_same(expected, found)
    assert searched(found) < searched(expected)


def test_an_interrupt_ends_with_the_best_and_the_next_search_is_served(pipe: Any, workers: Any) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Scored) and event.entry.prompt == 1:
            raise KeyboardInterrupt

    scaled = genscale.scale(pipe, "best_of_n", "shapes_clip", executor=workers, on_event=interrupt, **SEARCH)
    result = scaled.search(PROMPTS, generator=seeded(), **CALL)
    assert result.stopped == "interrupted"
    assert all(search.finals for search in result.searches)
    again = genscale.scale(pipe, "best_of_n", "shapes_clip", executor=workers, **SEARCH)
    alone = genscale.scale(pipe, "best_of_n", "shapes_clip", **SEARCH)
    assert_same(
        alone.search(PROMPTS, generator=seeded(), **CALL), again.search(PROMPTS, generator=seeded(), **CALL)
    )


def test_held_out_verifiers_and_events_see_the_images(pipe: Any, workers: Any) -> None:
    shown: list[Scored] = []
    scaled = genscale.scale(
        pipe, "best_of_n", "shapes_clip", select=lambda media, prompts: media.pixels.mean((1, 2, 3)),
        held_out="shapes", executor=workers, on_event=lambda e: isinstance(e, Scored) and shown.append(e), **SEARCH,
    )  # fmt: skip
    result = scaled.search(PROMPTS, generator=seeded(), **CALL)
    assert all(event.media is not None and event.media.tensor.shape[1:] == (3, 64, 64) for event in shown)
    for search in result.searches:
        assert "shapes" in search.ranking()[0].held_out
        best = result.media([search.ranking()[0]])
        assert search.ranking()[0].select["<lambda>"] == pytest.approx(float(best.tensor.mean()), abs=1e-4)


def failing(media: Media, prompts: Any) -> Any:
    raise RuntimeError("this judge is broken")


def test_what_a_verifier_raises_in_a_worker_is_told_as_in_one_process(pipe: Any, workers: Any) -> None:
    scaled = genscale.scale(pipe, "best_of_n", failing, executor=workers, **SEARCH)
    with pytest.raises(genscale.VerifierError, match=r"failing.*this judge is broken"):
        scaled.search(PROMPTS, generator=seeded(), **CALL)


def brightness(media: Media, prompts: Any) -> torch.Tensor:
    return media.pixels.mean((1, 2, 3))


def test_candidates_that_are_not_finite_are_dropped_as_in_one_process(pipe: Any, workers: Any) -> None:
    plain = genscale.scale(pipe, "best_of_n", brightness, **SEARCH).search(
        PROMPTS, generator=seeded(), **CALL
    )
    seen = [sorted(e.scores["brightness"] for e in search.finals) for search in plain.searches]
    limits = {prompt: (some[2] + some[3]) / 2 for prompt, some in zip(PROMPTS, seen, strict=True)}

    def judge(media: Media, prompts: Any) -> torch.Tensor:
        bright = brightness(media, prompts)
        return torch.where(bright > torch.tensor([limits[p] for p in prompts]), float("nan"), bright)

    results = [
        genscale.scale(pipe, "best_of_n", judge, executor=executor, **SEARCH).search(
            PROMPTS, generator=seeded(), **CALL
        )
        for executor in (None, workers)
    ]
    dropped = [[[f.candidate.id for f in search.dropped] for search in result.searches] for result in results]
    assert [len(some) for some in dropped[0]] == [2, 2]
    assert dropped[0] == dropped[1]
    assert_same(*results)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampler": "reno"}, "gradients are not sent"),
        ({"mix": "uncond:-0.5"}, "a mix holds models"),
        ({"draft": "steps=2,keep=2"}, "drafts change the pipeline"),
        ({"executor": "proceses:2"}, "no executor 'proceses:2', did you mean|no executor 'proceses:2'"),
        ({"executor": "processes"}, "names no number"),
        ({"executor": 3}, "has no workers"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_anything_starts(
    options: dict[str, Any], said: str, pipe: Any
) -> None:
    given = {"sampler": "best_of_n", "executor": "processes:2"} | options
    with pytest.raises(UsageError, match=said):
        genscale.scale(pipe, verifier="shapes_clip", **given)


def test_callbacks_and_pipelines_that_cannot_be_sent_are_refused(pipe: Any, workers: Any) -> None:
    scaled = genscale.scale(pipe, "best_of_n", "shapes_clip", candidates=2, executor=workers)
    with pytest.raises(UsageError, match="callback_on_step_end"):
        scaled("a red star", callback_on_step_end=lambda *args: {}, **CALL)
    with pytest.raises(UsageError, match="cannot be sent"):
        scaled("a red star", joint_attention_kwargs={"x": (i for i in range(2))}, **CALL)
