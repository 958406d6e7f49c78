"""Spends the budget that a method leaves, because it pays for no further round, on plain candidates (best of N)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from genscale.algorithms.budget_planning import affordable, wave_of
from genscale.diffusion.kernels import Ddim
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import OWN, Candidate, draw
from genscale.protocol.queries import Ask, Query, Score, Solve


def spend_leftover_budget(process: Process, key: Key, first: int) -> Generator[Query, Any, None]:
    """Draw and score plain candidates with ids from `first` on until the budget ends. Asks before each wave.

    Without a budget only candidate 0 is drawn, and only if no candidate was made yet. The candidates use the pipeline's
    own scheduler, or the ODE kernel if the scheduler cannot step.
    """
    kernel = None if process.own_steps else Ddim(0.0)
    while n := (yield from _next_batch(process, first)):
        start = process.start([_plain(draw(key, first + i)) for i in range(n)])
        first += n
        finished = yield Solve(start, None, kernel)
        yield Score(finished)


def _next_batch(process: Process, first: int) -> Generator[Query, Any, int]:
    if not process.open_ended:
        return 1 if first == 0 else 0
    granted: int = yield Ask(process.nfe(), process.calls(0, 1), wave_of(process))
    most = affordable(process)
    return granted if most is None else min(granted, most)


def _plain(candidate: Candidate) -> Candidate:
    """The candidate, marked as run by the pipeline's scheduler. The mark distinguishes it from a particle of the method
    with the same id and key in another run, which is moved by other kernels."""
    return candidate if candidate.id == OWN else replace(candidate, details={"plain": 1.0})
