"""Candidates with numbers that are not finite are dropped by name, whatever gave them; the others go on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genscale.engine.archive import read_archive
from genscale.engine.budget import Budget
from genscale.engine.events import Dropped, Event
from genscale.engine.failures import HOPELESS, all_failed
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.media import Media
from genscale.protocol.batches import Batch
from genscale.samplers.best_of_n import BestOfN
from tests.analytic import SAMPLERS, Euler, Mixture, Run, first_coordinate, pictures, process_of, run
from tests.quick import quick

BAD = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf}
PLACES = ("denoiser", "decoder", "verifier")


class Faulty:
    """A model, a decoder and a verifier of which one gives numbers that are not finite, for some candidates.

    place: which of them. which: bool [n] from values [n] that belong to each candidate alone, so that the same ones are
    hit whatever the batches are. ids: for the denoiser, which candidates, by id; since: from which step on.
    """

    def __init__(
        self,
        place: str,
        which: Callable[[Tensor], Tensor],
        ids: Callable[[int], bool],
        bad: float = math.nan,
        since: int = 1,
    ) -> None:
        self.place, self.which, self.ids, self.bad = place, which, ids, bad
        self.since = since
        self.dropped: list[Dropped] = []
        self.rows: list[bool] = []

    def run(self, sampler: Any, **options: Any) -> Run:
        model = _FaultyModel(self) if self.place == "denoiser" else None
        options = {"verifier": self.verifier, "decode": self.decode, "mixture": model} | options
        return run(sampler, on_batch=self._begin, on_event=self._listen, **options)

    def decode(self, x: Tensor, prompts: tuple[int, ...]) -> Media:
        return Media(self._broken("decoder", x)[:, :, None, None].clone())

    def verifier(self, media: Media, prompts: Sequence[str]) -> Tensor:
        return self._broken("verifier", first_coordinate(media, prompts)[:, None])[:, 0]

    def _broken(self, place: str, values: Tensor) -> Tensor:
        if place != self.place:
            return values
        return torch.where(self.which(values[:, :1].detach()), self.bad, values)

    def _begin(self, batch: Batch, rows: Sequence[tuple[int, int]]) -> None:
        self.rows = [batch.step >= self.since and self.ids(i) for _, i in rows]

    def _listen(self, event: Event) -> None:
        if isinstance(event, Dropped):
            self.dropped.append(event)


@dataclass(frozen=True)
class _FaultyModel(Mixture):
    faulty: Any = None

    def __init__(self, faulty: Faulty) -> None:
        super().__init__()
        object.__setattr__(self, "faulty", faulty)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        found = super().velocity(x, t)
        return torch.where(torch.tensor(self.faulty.rows)[:, None], self.faulty.bad, found)


def some(values: Tensor) -> Tensor:
    """About two fifths of all values."""
    return (values.double() * 900).remainder(1) < 0.4


def every(values: Tensor) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def faulty(place: str, bad: float = math.nan) -> Faulty:
    return Faulty(place, some, lambda i: i % 3 == 2 or i == 0, bad)


def check(made: Run, told: Sequence[Dropped]) -> None:
    """What holds for every search with candidates that failed."""
    for search in made.searches:
        lost = {f.candidate.id for f in search.dropped}
        assert all(math.isfinite(t) for t in search.totals(search.finals))
        assert not lost & {e.candidate.id for e in search.finals}
        best = search.best()
        assert best is None or best.x is not None
        assert best is None or best.x.isfinite().all()
    failures = [f for search in made.searches for f in search.failures.all]
    assert sorted(map(id, failures)) == sorted(id(event.failure) for event in told)
    named = [(f.prompt, f.candidate.id) for f in failures]
    assert len(set(named)) == len(named)  # each is told once


def check_folder(folder: Path, ancestors: bool = True) -> None:
    """No stored tensor is not finite, and no candidate was made from one that was known to have failed.

    ancestors: not checked for particle Gibbs, which goes back to states before those that failed.
    """
    for file in (folder / "latents").iterdir():
        for name, tensor in load_file(file).items():
            assert name in ("rate", "first_rate") or tensor.isfinite().all(), (file.name, name)
    lost: dict[tuple[int, int], str] = {}
    born = set()
    for record in read_archive(folder)[1:]:
        child, parent = (record["prompt"], record["candidate"]), (record["prompt"], record["parent"])
        if (
            ancestors
            and child not in born
            and parent in lost
            and record["kind"] != "failed"
            and lost[parent] != "gradient"
        ):
            raise AssertionError(f"candidate {child} was made from candidate {parent}, which had failed")
        born.add(child)
        if record["kind"] == "failed":
            lost[child] = record["where"]


CASES = [f"{name}: {place}" for name in SAMPLERS for place in PLACES]


@pytest.mark.parametrize("case", quick(CASES, CASES[::7]))
def test_every_sampler_goes_on_without_the_candidates_that_fail(case: str, tmp_path: Path) -> None:
    name, place = case.rsplit(": ", 1)
    fault = faulty(place)
    made = fault.run(SAMPLERS[name], budget=Budget(nfe=150), prompts=2, folder=tmp_path)
    check(made, fault.dropped)
    check_folder(tmp_path, ancestors=not name.startswith("particle_gibbs"))
    # fkc weighs particles by rates of the model alone: one whose rate is NaN has no offspring, and is never scored.
    assert fault.dropped or (name.startswith("fkc") and place == "denoiser"), (
        "nothing failed: nothing was tried"
    )
    assert all(search.best() for search in made.searches if search.finals)
    if "halving" not in name:  # a pool whose last survivors fail at a rung ends without a candidate
        assert any(made.winners) or any(f.final for search in made.searches for f in search.dropped)
    causes = {event.failure.where for event in fault.dropped}
    # The last is of look-aheads: states that are scored for another candidate.
    assert causes <= {"verifier first" if place == "verifier" else place, "gradient", "latents"}
    again = faulty(place)
    resumed = again.run(SAMPLERS[name], budget=Budget(nfe=150), prompts=2, folder=tmp_path)
    assert [w and (w.candidate, w.total) for w in resumed.winners] == [
        w and (w.candidate, w.total) for w in made.winners
    ]
    assert sorted(e.text for e in again.dropped) == sorted(e.text for e in fault.dropped)


# ---------------------------------------------------------------- one of eight


def rows_of(chosen: int, place: str, bad: float) -> Faulty:
    """Candidate `chosen` of best_of_n fails: its decoded value, or its score, is recognised by that of a whole run."""
    value = next(e for e in run(BestOfN(8)).archive.entries if e.candidate.id == chosen).total
    return Faulty(place, lambda v: (v.double() - value).abs() < 1e-4, lambda i: i == chosen, bad)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("chosen", [0, 1, 4, 7])
def test_of_eight_the_best_of_the_other_seven_wins(chosen: int, place: str, bad: str) -> None:
    whole, fault = run(BestOfN(8)), rows_of(chosen, place, BAD[bad])
    made = fault.run(BestOfN(8), batch_size=3)
    wanted = max((e for e in whole.archive.entries if e.candidate.id != chosen), key=lambda e: e.total)
    [search] = made.searches
    assert len(search.finals) == 7
    assert search.best().candidate == wanted.candidate
    assert search.best().total == pytest.approx(wanted.total, abs=1e-6)
    [event] = fault.dropped
    assert event.failure.candidate.id == chosen
    what = {
        "denoiser": f"the denoiser gave {bad if bad == 'NaN' else '(NaN|infinite values)'} at step 1",
        "decoder": f"the decoder gave {bad if bad == 'NaN' else 'infinite values'}",
        "verifier": f"the verifier first gave {bad}",
    }[place]
    assert re.fullmatch(f"candidate {chosen} of 'prompt 0' was dropped: {what}\\.", event.text)
    assert made.ledger.decodes == (7 if place == "denoiser" else 8)


def test_a_scheduler_s_step_is_named() -> None:
    class Broken(Euler):
        def step(self, particles: Any, output: Tensor, draw: Any) -> Any:
            x, memory = super().step(particles, output, draw)
            hit = torch.tensor([particles.step == 3 and c.id == 2 for c in particles.candidates])
            return torch.where(hit[:, None], math.inf, x), memory

    told: list[Any] = []
    solver = Broken(process_of()["solver"].times)
    made = run(BestOfN(4), more={"solver": solver}, on_event=told.append)
    [event] = [e for e in told if isinstance(e, Dropped)]
    assert (event.failure.candidate.id, event.failure.where) == (2, "scheduler")
    assert event.failure.what.endswith("at step 3")
    assert len(made.searches[0].finals) == 3


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_who_fails_does_not_depend_on_the_batch(batch_size: int) -> None:
    one, other = faulty("decoder"), faulty("decoder")
    a = one.run(SAMPLERS["zero_order"], budget=Budget(nfe=120), batch_size=4)
    b = other.run(SAMPLERS["zero_order"], budget=Budget(nfe=120), batch_size=batch_size)
    assert [e.text for e in one.dropped] == [e.text for e in other.dropped]
    assert a.winners[0].candidate == b.winners[0].candidate


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_goes_on_after_a_candidate_was_dropped(place: str, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    sampler, budget = SAMPLERS["zero_order"], Budget(nfe=150)
    whole = faulty(place)
    wanted = whole.run(sampler, budget=budget, folder=tmp_path / "whole")
    killed = faulty(place)

    def kill(event: Event) -> None:
        killed._listen(event)
        if len(killed.dropped) == 3:
            raise Killed

    with pytest.raises(Killed):
        run(
            sampler, on_batch=killed._begin, on_event=kill, verifier=killed.verifier, decode=killed.decode,
            mixture=_FaultyModel(killed) if place == "denoiser" else None, budget=budget, folder=tmp_path / "killed",
        )  # fmt: skip
    # The model is healthy again: what was dropped stays so, and nothing new fails.
    resumed = run(sampler, budget=budget, folder=tmp_path / "killed")
    assert [f.candidate.id for f in resumed.searches[0].dropped] == [
        e.failure.candidate.id for e in killed.dropped
    ]
    again = faulty(place).run(sampler, budget=budget, folder=tmp_path / "whole")
    assert again.winners[0].candidate == wanted.winners[0].candidate


def test_latents_that_an_early_version_stored_are_made_again(tmp_path: Path) -> None:
    whole = run(BestOfN(4), folder=tmp_path)
    file = tmp_path / "latents" / "0-2-6.safetensors"
    tensors = load_file(file)
    save_file({k: torch.full_like(v, math.nan) for k, v in tensors.items()}, file)
    records = [json.loads(line) for line in (tmp_path / "archive.jsonl").read_text().splitlines()]
    for record in records:  # as early versions wrote them
        record.pop("sum")
        record.pop("digest", None)
    kept = [json.dumps(record) for record in records if record["kind"] != "score"]
    (tmp_path / "archive.jsonl").write_text("\n".join(kept) + "\n")
    again = run(BestOfN(4), folder=tmp_path)
    assert [e.total for e in again.archive.entries] == [e.total for e in whole.archive.entries]
    assert not again.searches[0].dropped


# ---------------------------------------------------------------- all of them, and other ends


@pytest.mark.parametrize("case", quick(CASES, CASES[::7]))
def test_if_all_fail_every_sampler_ends(case: str) -> None:
    name, place = case.rsplit(": ", 1)
    fault = Faulty(place, every, lambda i: True, since=0)
    made = fault.run(SAMPLERS[name], budget=Budget(nfe=150))
    assert made.winners == [None]
    assert made.searches[0].dropped
    told = all_failed("prompt 0", made.searches[0].dropped)
    assert re.match(r"(all \d+ candidates|the only candidate) of 'prompt 0' failed: the ", told)
    assert "\n" not in told


@pytest.mark.parametrize("stop", ["patience:3", "gain:0.02", "adaptive:0.9"])
def test_if_all_fail_a_search_that_only_a_stop_rule_ends_is_given_up(stop: str) -> None:
    fault = Faulty("verifier", every, lambda i: True, since=0)
    made = fault.run(BestOfN(), stop=stop)
    assert made.winners == [None]
    assert HOPELESS <= len(made.searches[0].dropped) <= HOPELESS + 16


def test_if_all_fail_seconds_end_the_search() -> None:
    fault = Faulty("decoder", every, lambda i: True, since=0)
    assert fault.run(BestOfN(), budget=Budget(seconds=0.5)).winners == [None]


def test_if_all_fail_verifier_calls_end_the_search() -> None:
    fault = Faulty("decoder", every, lambda i: True, since=0)
    made = fault.run(BestOfN(), budget=Budget(verifier_calls=20))
    assert len(made.searches[0].dropped) == 20


def test_the_other_prompts_are_found() -> None:
    def first_fails(x: Tensor, prompts: tuple[int, ...]) -> Media:
        media = pictures(x, prompts)
        media.pixels[torch.tensor(prompts) == 0] = math.nan
        return media

    made, whole = run(BestOfN(4), prompts=3, decode=first_fails), run(BestOfN(4), prompts=3)
    assert made.winners[0] is None
    assert [w.candidate for w in made.winners[1:]] == [w.candidate for w in whole.winners[1:]]


def test_a_sum_of_scores_that_overflows_is_a_fault() -> None:
    def huge(media: Media, prompts: Sequence[str]) -> Tensor:
        return torch.where(
            first_coordinate(media, prompts) > 0, torch.tensor(1e308, dtype=torch.float64), -1.0
        )

    made = run(BestOfN(8), roles=Roles(VerifierSet((WeightedVerifier("huge", huge, 10.0),))))
    [search] = made.searches
    assert search.dropped
    assert {f.cause for f in search.dropped} == {"the weighted sum of the scores gave inf"}
    assert all(e.total == -10 for e in search.finals)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (-1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("ensemble", ["weighted", "rank"])
def test_ensembles_leave_out_what_failed(ensemble: str, weights: tuple[float, float]) -> None:
    if ensemble == "rank" and min(weights) < 0:
        pytest.skip("refused")
    bad = faulty("verifier")
    members = (
        WeightedVerifier("bad", bad.verifier, weights[0]),
        WeightedVerifier("b", first_coordinate, weights[1]),
    )
    [search] = run(
        SAMPLERS["zero_order"], roles=Roles(VerifierSet(members, ensemble)), budget=Budget(nfe=120)
    ).searches
    assert search.dropped
    assert search.best() in search.finals
    assert all(math.isfinite(t) for t in search.totals(search.finals))


def test_a_select_verifier_drops_and_a_held_out_one_does_not() -> None:
    bad, held = faulty("verifier"), Faulty("verifier", every, lambda i: True, since=0)
    first = WeightedVerifier("first", first_coordinate)
    roles = Roles(
        VerifierSet((first,)), VerifierSet((WeightedVerifier("select", bad.verifier),)),
        VerifierSet((WeightedVerifier("held", held.verifier), first)),
    )  # fmt: skip
    [search] = run(BestOfN(8), roles=roles).searches
    assert {f.where for f in search.dropped} == {"verifier select"}
    assert len(search.finals) + len(search.dropped) == 8
    assert all("held" not in e.held_out for e in search.finals)
    assert "first" in search.best().held_out


def test_without_a_verifier_what_is_not_finite_is_not_chosen() -> None:
    fault = Faulty("denoiser", some, lambda i: i == 0)
    [search] = fault.run(BestOfN(3), roles=Roles()).searches
    assert search.best().candidate.id == 1
    assert [f.candidate.id for f in search.dropped] == [0]
