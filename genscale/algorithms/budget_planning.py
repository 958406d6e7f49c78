"""The number of candidates or rounds that a search plans, from the budget that is left."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from genscale.errors import BudgetExhausted
from genscale.protocol.interfaces import Process
from genscale.protocol.queries import Ask, Query

WAVE = 16  # candidates that are started together, unless scores can end the search

# Sizes of a search for which neither the user nor a budget sets one.
CANDIDATES_WITHOUT_BUDGET = 16  # candidates, particles, paths or noises of a beam
ROUNDS_WITHOUT_BUDGET = 4  # rounds, generations or sweeps of a fixed size


def payable(process: Process, nfe: int, calls: int) -> int | None:
    """How many units the budget pays for, if each costs `nfe` NFE and `calls` verifier calls; None if neither is
    limited."""
    limits = ((process.nfe_left, nfe), (process.calls_left, calls))
    counts = [left // max(each, 1) for left, each in limits if left is not None]
    return min(counts) if counts else None


def affordable(process: Process) -> int | None:
    """How many whole runs from noise to a final score the budget pays for; None if it limits neither NFE nor verifier
    calls."""
    return payable(process, process.nfe(), process.calls(0, 1))


def within(process: Process, nfe: int, calls: int) -> bool:
    """Whether the budget pays for `nfe` NFE and `calls` verifier calls."""
    left = ((process.nfe_left, nfe), (process.calls_left, calls))
    return all(most is None or wanted <= most for most, wanted in left)


def rounds_of(process: Process, rounds: int | None, default: int = ROUNDS_WITHOUT_BUDGET) -> int | None:
    """The number of rounds of a search: `rounds` if given, else None (until the budget ends the search), or `default`
    without a budget."""
    return default if rounds is None and not process.open_ended else rounds


def largest(most: int, allowed: Callable[[int], bool]) -> int:
    """The largest number up to `most` that is allowed, 0 if none is. `allowed` must be monotone: if a number is
    allowed, so are all smaller ones."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle - 1)
    return low


def wave_of(process: Process, given: int | None = None) -> int:
    """How many independent candidates are started together: as many as `given`, else as can be evaluated together, or
    WAVE.

    1 where a target or a stop rule can end the search, so that none is computed in vain after the one that does. The
    candidates of other prompts fill the batches.
    """
    return given or (1 if process.scores_end else process.together or WAVE)


def next_batch(
    process: Process, candidates: int | None, done: int, nfe: int, previews: int = 0, default: int = 1
) -> Generator[Query, Any, int]:
    """Ask for the next batch of independent candidates; its size, 0: the search is complete.

    It is at most `wave_of(process)`, and not more than the budget pays for. candidates: their total number; None: as
    many as the budget pays for (`default` without a budget). done: number of candidates finished so far. nfe, previews:
    NFE and number of scored clean estimates of one candidate.
    """
    if candidates is None and not process.open_ended:
        candidates = default
    wave = wave_of(process)
    most = wave if candidates is None else min(wave, candidates - done)
    if most > 0:
        try:
            most = yield Ask(nfe, process.calls(previews, 1), most)
        except BudgetExhausted:
            return 0
    return largest(most, lambda n: within(process, n * nfe, process.calls(n * previews, n)))


def cost_of(process: Process, candidates: int | None, nfe: int, default: int = 1) -> int | None:
    """NFE of a search that uses `next_batch`; None if it runs until the budget ends."""
    return None if candidates is None and process.open_ended else (candidates or default) * nfe
