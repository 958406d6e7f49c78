"""Zero-order search: local search on the noise sphere, among neighbours of the best noise so far.

Ma et al. 2025 (arXiv 2501.09732, section 3.1, "Zero-Order Search"). The paper does not say how the distance of
neighbours is measured. Here they are at a fixed cosine on the sphere, the form that the paper's first author
contributed to tt-scale-flux.

Differences, each a fix of public code: the pivot is not generated again. The search restarts when it fails, and the
result is the best of all scored candidates. Noise is drawn from keys.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch

from genscale.algorithms.budget_planning import rounds_of
from genscale.algorithms.option_checks import check_options
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.noise_sphere import neighbour
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, cat, draw
from genscale.protocol.queries import Query, Score, Solve


@dataclass(frozen=True)
class ZeroOrder:
    """Local search among neighbours of the best noise, with a restart from fresh noise when none is better.

    neighbours: candidates in each round. 4 by default, as in tt-scale-flux (Ma et al. use 2 for text-to-image).
    cosine: cosine of the angle between the noise of a neighbour and that of its pivot. 0.95 by default, as in
        tt-scale-flux.
    rounds: rounds after the first candidate. None, the default, continues until the budget ends the search (4 rounds
        without a budget).
    patience: rounds without progress before a restart. 1 by default.
    ahead: rounds that are proposed from the same pivot and evaluated together, then judged one after the other; the
        first of them together with the pivot. More of them fill the batch of a single prompt, but the later ones do not
        yet know what the earlier ones found. 1 by default, as published.

    A restart draws `neighbours` fresh noises, and the best of them is the next pivot. Every round therefore costs the
    same.

    Cost in NFE: (1 + rounds * neighbours) f, f being the evaluations of one candidate.
    """

    neighbours: int = 4
    cosine: float = 0.95
    rounds: int | None = None
    patience: int = 1
    ahead: int = 1

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})
    size_option: ClassVar[str] = "neighbours"

    def __post_init__(self) -> None:
        check_options(self, neighbours=1, patience=1, rounds=0, ahead=1)
        if not -1 <= self.cosine <= 1:
            raise UsageError(f"cosine={self.cosine} must be between -1 and 1.")

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        pivot, rounds, failures, done = draw(key, 0), rounds_of(process, self.rounds), 0, 0
        noise, best = process.noise(pivot), cast("Scores | None", None)  # [*latent]
        while best is None or rounds is None or done < rounds:
            restart = best is not None and (failures >= self.patience or not best.alive)
            ahead = self.ahead - (best is None)  # the first query holds the pivot, too
            ahead = ahead if rounds is None else min(ahead, rounds - done)
            ids = range(1 + done * self.neighbours, 1 + (done + ahead) * self.neighbours)
            candidates = [draw(key, i) if restart else self._near(key, i, pivot) for i in ids]
            starts = [process.start([pivot])] if best is None else []
            if candidates:
                fresh = torch.stack([process.noise(c) for c in candidates])  # [ahead * neighbours, *latent]
                if not restart:
                    fresh = neighbour(noise.expand_as(fresh), self.cosine, fresh)
                starts.append(process.start(candidates, fresh))
            finished = yield Solve(cat(starts))
            scores: Scores = yield Score(finished)
            if best is None:
                best, scores = scores[:1], scores[1:]
            # One round after the other, as if the later ones had been proposed after the earlier ones were judged.
            for first in range(0, len(scores), self.neighbours):
                own_round = scores[first : first + self.neighbours]
                # The pivot comes first and stays where scores are equal, so only a strictly better one replaces it.
                pool = own_round if restart else Scores.cat([best, own_round])
                winner = pool.best() - (0 if restart else 1)
                failures, restart = failures + 1 if winner < 0 else 0, False
                if winner >= 0:
                    pivot, noise = candidates[first + winner], fresh[first + winner]
                    best = own_round[winner : winner + 1]
            done += ahead

    def _near(self, key: Key, i: int, pivot: Candidate) -> Candidate:
        return Candidate(
            i, "neighbour", key.fold("candidate", i).path, pivot.id, details={"cosine": self.cosine}
        )

    def cost(self, process: Process) -> int | None:
        rounds = rounds_of(process, self.rounds)
        return None if rounds is None else (1 + rounds * self.neighbours) * process.nfe()
