"""What is left of a budget when it no longer pays for a method: plain candidates, as best_of_n draws them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from genscale.algorithms.budget_planning import WAVE, affordable
from genscale.diffusion.kernels import Ddim
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import OWN, Candidate, draw
from genscale.protocol.queries import Query, Score, Solve


def remainder(process: Process, key: Key, first: int) -> Generator[Query, Any, None]:
    """Candidates from number `first` on, until the budget ends; without one only candidate 0, if it is not there yet.

    They run on the pipeline's own scheduler, or on the ODE where that cannot step.
    """
    kernel = None if process.own_steps else Ddim(0.0)
    while n := _affordable(process, first):
        start = process.start([_plain(draw(key, first + i)) for i in range(n)])
        first += n
        finished = yield Solve(start, None, kernel)
        yield Score(finished)


def _affordable(process: Process, first: int) -> int:
    if not process.open_ended:
        return 1 if first == 0 else 0
    most = affordable(process)
    return WAVE if most is None else min(WAVE, most)


def _plain(candidate: Candidate) -> Candidate:
    """Marked as run by the scheduler: the same number and key may have been a particle of a method's under kernels."""
    return candidate if candidate.id == OWN else replace(candidate, details={"plain": 1.0})
