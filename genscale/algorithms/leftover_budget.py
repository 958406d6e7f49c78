"""Spends what is left of a budget, when it no longer pays for a method, on plain candidates (best of N)."""

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


def spend_leftover_budget(process: Process, key: Key, first: int) -> Generator[Query, Any, None]:
    """Draw and score plain candidates with ids from `first` on until the budget ends. Without a budget: candidate 0
    alone, if no candidate was made yet.

    They run on the pipeline's own scheduler, or on the ODE where it cannot step.
    """
    kernel = None if process.own_steps else Ddim(0.0)
    while n := _next_batch(process, first):
        start = process.start([_plain(draw(key, first + i)) for i in range(n)])
        first += n
        finished = yield Solve(start, None, kernel)
        yield Score(finished)


def _next_batch(process: Process, first: int) -> int:
    if not process.open_ended:
        return 1 if first == 0 else 0
    most = affordable(process)
    return WAVE if most is None else min(WAVE, most)


def _plain(candidate: Candidate) -> Candidate:
    """The candidate, marked as run by the scheduler: another run may have made the same id and key a particle of the
    method, which other kernels move."""
    return candidate if candidate.id == OWN else replace(candidate, details={"plain": 1.0})
