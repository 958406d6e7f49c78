"""The engine: batches, memory, roles of verifiers, failures, the ledger. (Budgets are in test_budget.py.)"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from genscale.engine.archive import read_archive
from genscale.engine.budget import Budget
from genscale.engine.ensembles import mean_rank
from genscale.engine.events import BatchHalved, Denoised, Scored
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError, VerifierError
from genscale.media import Media
from genscale.results.result import SearchResult
from genscale.samplers.best_of_n import BestOfN
from tests.analytic import SAMPLERS, Full, Run, first_coordinate, run
from tests.quick import third


def second_coordinate(media: Media, prompts: Sequence[str]) -> torch.Tensor:
    return media.pixels[:, 1, 0, 0].double()


def result(made: Run) -> SearchResult:
    entries = tuple(made.archive.entries)
    return SearchResult(tuple(made.searches), entries, made.ledger, Budget(), 0, lambda e: None)  # type: ignore[arg-type,return-value]


# ---------------------------------------------------------------- batches and memory


def test_batches_are_full_and_bounded() -> None:
    made = run(BestOfN(10), prompts=3, batch_size=7)
    sizes = [len(b.prompts) for b in made.batches]
    assert max(sizes) == 7
    assert sum(sizes) == 3 * 10 * 6
    assert len(sizes) == 6 * 5  # 30 candidates in batches of 7, 7, 7, 7 and 2
    assert any(len(set(b.prompts)) > 1 for b in made.batches)


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("name", third(SAMPLERS))
def test_a_batch_that_does_not_fit_is_halved(name: str, prompts: int) -> None:
    budget, events = Budget(nfe=90), []
    whole = run(SAMPLERS[name], budget=budget, batch_size=16, prompts=prompts)
    small = run(SAMPLERS[name], budget=budget, batch_size=16, prompts=prompts, fits=2, on_event=events.append)
    assert max(len(b.prompts) for b in small.batches) <= 2
    assert [w.candidate for w in small.winners] == [w.candidate for w in whole.winners]
    assert [s.spent for s in small.searches] == [s.spent for s in whole.searches]
    for a, b in zip(small.winners, whole.winners, strict=True):
        assert a.total == pytest.approx(b.total, abs=1e-6)
    if max(len(b.prompts) for b in whole.batches) > 2:
        halved = [e.batch_size for e in events if isinstance(e, BatchHalved)]
        assert halved
        assert halved == sorted(halved, reverse=True)
        assert halved[-1] <= 2
        assert small.engine.batch_size <= 2


def test_memory_may_run_out_later() -> None:
    """A batch fits at first and fails in the middle: rows that have begun go on from where they are."""
    seen: list[tuple[int, int, int]] = []

    def on_batch(batch: Any, rows: Any) -> None:
        seen.extend((p, i, batch.step) for p, i in rows)

    made = run(BestOfN(12), batch_size=8, on_batch=on_batch, fits=8)
    engine_batches = len(made.batches)
    assert len(seen) == len(set(seen)) == 12 * 6
    assert engine_batches == 12


def test_one_row_that_does_not_fit_is_given_back() -> None:
    made = run(BestOfN(1))
    assert made.engine.halve(1) is None


ONE_BY_ONE = (  # decode one at a time, or two
    "search_over_paths of one",
    "accept_reject",
    "accept_reject, finished ones only",
    "dfs below a number",
    "reno of 3 turns",
    "carinox of 2 turns",
    "ditto",
    "ditto2 until the budget ends",
    "dno",
    "dflow",
)


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_a_decode_that_does_not_fit_is_halved(name: str) -> None:
    budget, events = Budget(nfe=90), []
    whole = run(SAMPLERS[name], budget=budget, batch_size=16)
    small = run(SAMPLERS[name], budget=budget, batch_size=16, decode=Full(2), on_event=events.append)
    assert [w.candidate for w in small.winners] == [w.candidate for w in whole.winners]
    assert small.ledger.decodes == whole.ledger.decodes
    assert small.ledger.verifier_calls == whole.ledger.verifier_calls
    many = any(isinstance(e, BatchHalved) for e in events)
    assert many == (name not in ONE_BY_ONE)
    takes_gradients = "gradient" in getattr(SAMPLERS[name], "needs", ()) or name.startswith(("das", "tds"))
    if not takes_gradients:  # those decode within the model's batch
        assert all(e.decoding for e in events if isinstance(e, BatchHalved))
        assert small.engine.batch_size == 16  # the model's batches stay as they are


def test_a_decode_of_one_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit into the accelerator's memory"):
        run(BestOfN(4), decode=Full(0))


def test_a_verifier_that_does_not_fit_sees_fewer() -> None:
    def hungry(media: Media, prompts: Sequence[str]) -> torch.Tensor:
        if len(prompts) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return first_coordinate(media, prompts)

    made, whole = run(BestOfN(8), verifier=hungry), run(BestOfN(8))
    assert [e.total for e in made.archive.entries] == [e.total for e in whole.archive.entries]
    assert made.ledger.verifier_calls == {"first": 8}


# ---------------------------------------------------------------- events and the ledger


def test_events_tell_what_happens() -> None:
    events: list[Any] = []
    made = run(BestOfN(6, prune=(0.5,)), on_event=events.append)
    denoised = [e for e in events if isinstance(e, Denoised)]
    scored = [e for e in events if isinstance(e, Scored)]
    assert sum(e.rows for e in denoised) == made.ledger.evaluations == denoised[-1].evaluations
    assert [e.entry for e in scored] == made.archive.entries
    assert all((e.best is None) == (i < 6) for i, e in enumerate(scored))
    bests = [e.best.total for e in scored if e.best is not None]
    assert bests == sorted(bests)


def test_the_ledger_adds_up() -> None:
    roles = Roles(
        VerifierSet((WeightedVerifier("a", first_coordinate), WeightedVerifier("b", second_coordinate))),
        VerifierSet((WeightedVerifier("c", second_coordinate),)),
        VerifierSet((WeightedVerifier("d", first_coordinate),)),
    )
    made = run(BestOfN(8, prune=(0.5,)), roles=roles, prompts=2, guided=2)
    ledger = made.ledger.as_dict()
    assert ledger["evaluations"] == sum(s.spent for s in made.searches) == 2 * 2 * (8 * 4 + 4 * 2)
    assert ledger["decodes"] == 2 * (8 + 4)
    reported = sum(bool(e.held_out) for e in made.archive.entries)
    assert ledger["verifier_calls"] == {"a": 24, "b": 24, "c": 8, "d": reported}
    assert sum(s.calls for s in made.searches) == 24 + 24 + 8  # what is only reported is not counted
    assert {"step", "decode", "verify"} <= set(ledger["seconds"])
    assert all(v >= 0 for v in ledger["seconds"].values())
    assert ledger["peak_memory_bytes"] > 10**6
    assert ledger["backwards"] == ledger["probes"] == 0


# ---------------------------------------------------------------- roles


def test_select_picks_while_search_steers() -> None:
    search, select = (
        VerifierSet((WeightedVerifier("a", first_coordinate),)),
        VerifierSet((WeightedVerifier("b", second_coordinate),)),
    )
    made = run(BestOfN(12, prune=(0.5,)), roles=Roles(search, select))
    steered = run(BestOfN(12, prune=(0.5,)), roles=Roles(search))
    finals = made.searches[0].finals
    assert [e.candidate for e in finals] == [e.candidate for e in steered.searches[0].finals]
    assert made.winners[0].select["b"] == max(e.select["b"] for e in finals)
    assert made.winners[0].candidate != steered.winners[0].candidate
    assert all(not e.select for e in made.archive.entries if not e.final)
    shown = result(made)
    assert shown.total(made.winners[0]) == made.winners[0].select["b"]
    preview = next(e for e in made.archive.entries if not e.final)
    assert shown.total(preview) == preview.scores["a"]


def test_report_only_measures() -> None:
    calls: list[int] = []

    def held_out(media: Media, prompts: Sequence[str]) -> list[float]:
        calls.append(len(prompts))
        return [-float(p.pixels) if hasattr(p, "pixels") else 7.0 for p in media]

    search = VerifierSet((WeightedVerifier("a", first_coordinate),))
    for sampler in SAMPLERS.values():
        calls.clear()
        made = run(
            sampler,
            budget=Budget(nfe=90),
            roles=Roles(search, held_out=VerifierSet((WeightedVerifier("r", held_out),))),
        )
        plain = run(sampler, budget=Budget(nfe=90), roles=Roles(search))
        assert [e.total for e in made.archive.entries] == [e.total for e in plain.archive.entries]
        assert made.winners[0].candidate == plain.winners[0].candidate
        best, wanted = -float("inf"), set()
        for entry in (e for e in made.archive.entries if e.final):
            if entry.candidate.id == 0 or entry.total > best:
                wanted.add(entry.candidate.id)
            best = max(best, entry.total)
        reported = {e.candidate.id for e in made.archive.entries if e.held_out}
        assert reported == wanted
        assert len(calls) == len(wanted)
        assert made.winners[0].held_out == {"r": 7.0}
        assert all(p["held_out"] for p in result(made).curve())


def ranks_over_the_pool(made: Run) -> list[float]:
    raw = torch.tensor([[e.scores["a"], e.scores["b"]] for e in made.searches[0].finals], dtype=torch.float64)
    return mean_rank(raw, torch.ones(2, dtype=torch.float64)).tolist()


def test_a_rank_ensemble_s_winner_is_that_of_the_whole_pool() -> None:
    panel = VerifierSet(
        (WeightedVerifier("a", first_coordinate), WeightedVerifier("b", second_coordinate)), "rank"
    )
    held_out = VerifierSet((WeightedVerifier("r", first_coordinate),))
    turned = 0
    for seed in range(30):
        made = run(BestOfN(12, wave=2), roles=Roles(panel, held_out=held_out), seed=seed)
        finals, totals = made.searches[0].finals, ranks_over_the_pool(made)
        assert made.winners[0] is finals[totals.index(max(totals))]
        assert [result(made).total(e) for e in finals] == totals
        assert made.winners[0].held_out  # also where a later candidate lifted it above the then best
        assert all(e.total is None and e.x is not None for e in finals)
        # Broken twin: compare each newcomer with the best so far, two at a time.
        best = finals[0]
        for entry in finals[1:]:
            raw = [[e.scores["a"], e.scores["b"]] for e in (best, entry)]
            two = mean_rank(torch.tensor(raw, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
            best = entry if two[1] > two[0] else best
        turned += best is not made.winners[0]
    assert turned > 0


def test_equal_scores_keep_the_first() -> None:
    made = run(BestOfN(8), verifier=lambda media, prompts: [1.0] * len(prompts))
    assert made.winners[0].candidate.id == 0


def test_only_the_best_keep_their_latents() -> None:
    for keep in (1, 3):
        made = run(BestOfN(10), keep=keep)
        kept = {e.candidate.id for e in made.searches[0].finals if e.x is not None}
        best = [e.candidate.id for e in made.searches[0].ranking()[:keep]]
        assert kept == {0, *best}
    lost = next(e for e in made.searches[0].finals if e.x is None)
    with pytest.raises(ValueError, match="were not kept"):
        result(made).media([lost])


# ---------------------------------------------------------------- failures


class Failing:
    """first_coordinate, until it is asked for its k-th batch."""

    def __init__(self, after: int, how: Any) -> None:
        self.after, self.how, self.healthy = after, how, False

    def __call__(self, media: Media, prompts: Sequence[str]) -> Any:
        scores = first_coordinate(media, prompts)
        self.after -= 1
        return scores if self.healthy or self.after >= 0 else self.how(scores)


def raising(scores: torch.Tensor) -> Any:
    raise ConnectionError("no route to the judge")


FAILURES = {
    "too few": (lambda s: s[1:], r"candidate \d+ of 'prompt 0'.* must return one number for each"),
    "None": (lambda s: None, r"candidate \d+ of 'prompt 0'.*NoneType"),
    "an exception": (
        raising,
        r"failed on candidate \d+ of 'prompt 0'.*ConnectionError: no route to the judge",
    ),
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("name", ["best_of_n", "zero_order", "search_over_paths, wide"])
def test_a_verifier_s_failure_loses_nothing(tmp_path: Path, name: str, kind: str) -> None:
    how, message = FAILURES[kind]
    budget, verifier = Budget(nfe=90), Failing(1, how)
    whole = run(SAMPLERS[name], budget=budget, folder=tmp_path / "whole")
    with pytest.raises(VerifierError, match=message):
        run(SAMPLERS[name], budget=budget, folder=tmp_path / "broken", verifier=verifier)
    before = read_archive(tmp_path / "broken")
    solved = sum(r["kind"] == "solve" for r in before)
    assert sum(r["kind"] == "score" for r in before) > 0  # the batch before the failure
    assert solved > 1
    verifier.healthy = True
    resumed = run(SAMPLERS[name], budget=budget, folder=tmp_path / "broken", verifier=verifier)
    assert resumed.winners[0].candidate == whole.winners[0].candidate
    assert resumed.winners[0].total == pytest.approx(whole.winners[0].total, abs=1e-6)
    assert resumed.ledger.evaluations < whole.ledger.evaluations
    assert resumed.ledger.decodes == whole.ledger.decodes - sum(r["kind"] == "score" for r in before)
    assert read_archive(tmp_path / "broken")[: len(before)] == before


def test_a_sampler_that_stops_without_an_answer_ends_its_search() -> None:
    made = run(BestOfN(4), budget=Budget(nfe=3))
    assert made.winners == [None]
    assert made.ledger.evaluations == 0


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    run(BestOfN(4))
    assert threading.active_count() == before
