"""Simulated annealing on the noise sphere: worse noises are sometimes accepted, to leave local maxima.

Kirkpatrick, Gelatt & Vecchi 1983, with the acceptance rule of Metropolis et al. 1953. The application to the noise of
diffusion models follows the NoiseSearch notebooks (aklein4/NoiseSearch), which take 50 evaluations and multiply the
angle of the proposals and the temperature by 0.92 after each.

Differences: proposals stay on the sphere. The temperature is in units of the spread of the first scores, because
rewards have no common unit. Proposals are evaluated in batches. The schedule is stretched over as many evaluations as
the budget pays for.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.budget_planning import affordable, rounds_of
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.tempering import unit_of
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.noise_sphere import neighbour
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import OWN, Candidate, draw
from genscale.protocol.queries import Query, Score, Solve

CYCLE = 50  # evaluations in one schedule where neither the rounds nor an NFE budget is given, as published


@dataclass(frozen=True)
class Annealing:
    """Simulated annealing of the initial noise: accept a score that is lower by d with probability exp(-d / T).

    proposals: neighbours of the current noise that are evaluated in one batch, then accepted or rejected one after
        another. 4 by default; 1 is the published walk.
    turn: angle between the first proposals and the current noise, as a share of a right angle. 1 by default, published;
        0 does not move.
    temperature: initial T, in units of the standard deviation of the scores of candidate 0 and the first proposals.
        0.25 by default, the value that the notebooks use for ImageReward without rescaling; 0 is hill climbing.
    final: share of `turn` and `temperature` that is left at the end of the schedule. 0.0155 by default, which is 0.92
        to the power of 50 as in the notebooks.
    rounds: batches of proposals. None, the default, continues until the budget ends the search (4 rounds without a
        budget).

    Where only a time limit ends the search, a schedule takes 50 proposals, and the next one begins from the best noise
    so far.

    Cost in NFE: (1 + rounds * proposals) f, f being the evaluations of one candidate.
    """

    proposals: int = 4
    turn: float = 1.0
    temperature: float = 0.25
    final: float = 0.0155
    rounds: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})
    size_option: ClassVar[str] = "proposals"

    def __post_init__(self) -> None:
        check_options(self, proposals=1, rounds=0)
        if not 0 <= self.turn <= 1 or not 0 < self.final <= 1:
            raise UsageError(f"turn={self.turn} must be in [0, 1] and final={self.final} in (0, 1].")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature={self.temperature} must be 0 or more.")

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        rounds = rounds_of(process, self.rounds)
        cycle, open_end = self._cycle(process, rounds)
        lead = draw(key, OWN)
        here = best = process.noise(lead)
        finished = yield Solve(process.start([lead]))
        at: Scores = yield Score(finished)
        leader, top, first, done = lead, at, at, 0
        while rounds is None or done < rounds:
            if open_end and done > 0 and done % cycle == 0:
                lead, here, at = leader, best, top
            ids = range(1 + done * self.proposals, 1 + (done + 1) * self.proposals)
            at_round = done % cycle if open_end else min(done, cycle - 1)
            heat = self.final ** (at_round / max(cycle - 1, 1))
            candidates, noise = self._propose(process, key, ids, lead if at.alive else None, here, heat)
            finished = yield Solve(process.start(candidates, noise))
            scores: Scores = yield Score(finished)
            if done == 0:
                first = Scores.cat([at, scores])
            for i in self._accepted(first, at, scores, heat, [Key(c.key) for c in candidates]):
                lead, here, at = candidates[i], noise[i], scores[i : i + 1]
            winner = Scores.cat([top, scores]).best() - 1
            if winner >= 0:
                leader, best, top = candidates[winner], noise[winner], scores[winner : winner + 1]
            done += 1

    def _cycle(self, process: Process, rounds: int | None) -> tuple[int, bool]:
        """Number of rounds in one schedule, and whether another schedule follows it."""
        n = affordable(process)
        counts = [c for c in (rounds, None if n is None else -(-(n - 1) // self.proposals)) if c is not None]
        if counts:
            return max(1, min(counts)), False
        return max(1, CYCLE // self.proposals), True

    def _propose(
        self, process: Process, key: Key, ids: range, lead: Candidate | None, here: Tensor, heat: float
    ) -> tuple[list[Candidate], Tensor]:
        """Neighbours of the noise `here` of `lead`; fresh noises if that candidate failed (None)."""
        if lead is None:
            candidates = [draw(key, i) for i in ids]
            return candidates, torch.stack([process.noise(c) for c in candidates])
        cosine = math.cos(self.turn * heat * math.pi / 2)
        candidates = [
            Candidate(
                i,
                "neighbour",
                key.fold("candidate", i).path,
                lead.id,
                details={"cosine": cosine, "heat": heat},
            )
            for i in ids
        ]
        fresh = torch.stack([process.noise(c) for c in candidates])
        return candidates, neighbour(here.expand_as(fresh), cosine, fresh)

    def _accepted(self, first: Scores, at: Scores, new: Scores, heat: float, keys: list[Key]) -> list[int]:
        """Rows that are accepted, each compared with the one accepted before it.

        The scores are ranked in one pool with the first scores, whose standard deviation is the unit of temperature.
        """
        total = Scores.cat([first, at, new]).total
        unit = unit_of(total[: len(first)], "pool", flat=0.0)
        now, accepted = float(total[len(first)]), []
        for i in range(len(new)):
            score = float(total[len(first) + 1 + i])
            if metropolis(
                score - now, self.temperature * heat * unit, float(keys[i].fold("accept").uniform(1))
            ):
                now = score
                accepted.append(i)
        return accepted

    def cost(self, process: Process) -> int | None:
        rounds = rounds_of(process, self.rounds)
        return None if rounds is None else (1 + rounds * self.proposals) * process.nfe()


def metropolis(gain: float, temperature: float, u: float) -> bool:
    """Whether a move is accepted, for u uniform in [0, 1). At temperature 0 only strictly better moves are."""
    if temperature <= 0:
        return gain > 0
    return gain >= 0 or u < math.exp(gain / temperature)
