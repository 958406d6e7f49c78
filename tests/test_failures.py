"""Candidates with numbers that are not finite are dropped by name, whatever gave them; the others go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genscale.engine.archive import read_archive
from genscale.engine.budget import Budget
from genscale.engine.events import Dropped, Event, Scored
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.media import Media
from genscale.protocol.batches import Batch
from genscale.samplers.best_of_n import BestOfN
from tests.analytic import SAMPLERS, Mixture, Run, first_coordinate, pictures, run
from tests.quick import third

BAD = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf}
PLACES = ("denoiser", "decoder", "verifier")


class Faulty:
    """A model, a decoder and a verifier of which one gives numbers that are not finite, for some candidates.

    place: which of them. which: bool [n] from values [n] that belong to each candidate alone, so that the same ones are
    hit whatever the batches are. ids: for the denoiser, which candidates, by id.
    """

    def __init__(
        self, place: str, which: Callable[[Tensor], Tensor], ids: Callable[[int], bool], bad: float = math.nan
    ) -> None:
        self.place, self.which, self.ids, self.bad = place, which, ids, bad
        self.dropped: list[Dropped] = []
        self._rows: list[bool] = []

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
        self.rows = [batch.step >= 1 and self.ids(i) for _, i in rows]

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
        if ancestors and child not in born and parent in lost and record["kind"] != "failed" and lost[parent] != "gradient":
            raise AssertionError(f"candidate {child} was made from candidate {parent}, which had failed")
        born.add(child)
        if record["kind"] == "failed":
            lost[child] = record["where"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", third(SAMPLERS))
def test_every_sampler_goes_on_without_the_candidates_that_fail(name: str, place: str, tmp_path: Path) -> None:
    fault = faulty(place)
    made = fault.run(SAMPLERS[name], budget=Budget(nfe=150), prompts=2, folder=tmp_path)
    check(made, fault.dropped)
    check_folder(tmp_path, ancestors=not name.startswith("particle_gibbs"))
    # fkc weighs particles by rates of the model alone: one whose rate is NaN has no offspring, and is never scored.
    assert fault.dropped or (name.startswith("fkc") and place == "denoiser"), "nothing failed: nothing was tried"
    assert all(search.best() for search in made.searches if search.finals)
    if "halving" not in name:  # a pool whose last survivors fail at a rung ends without a candidate
        assert any(made.winners) or any(f.final for search in made.searches for f in search.dropped)
    causes = {event.failure.where for event in fault.dropped}
    # The last is of look-aheads: states that are scored for another candidate.
    assert causes <= {"verifier first" if place == "verifier" else place, "gradient", "latents"}
    again = faulty(place)
    resumed = again.run(SAMPLERS[name], budget=Budget(nfe=150), prompts=2, folder=tmp_path)
    assert [w and (w.candidate, w.total) for w in resumed.winners] == [w and (w.candidate, w.total) for w in made.winners]
    assert sorted(e.text for e in again.dropped) == sorted(e.text for e in fault.dropped)
