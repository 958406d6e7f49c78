"""How many candidates a search of whole runs from noise may finish, by what the budget says before it begins."""

from __future__ import annotations

from collections.abc import Callable

from genscale.protocol.interfaces import Process

WAVE = 16  # candidates at a time


def affordable(process: Process) -> int | None:
    """Candidates that NFE and verifier calls still pay for from noise to a score; None where neither is limited."""
    limits = ((process.nfe_left, process.nfe()), (process.calls_left, process.calls(0, 1)))
    counts = [left // max(each, 1) for left, each in limits if left is not None]
    return min(counts) if counts else None


def within(process: Process, nfe: int, calls: int) -> bool:
    """Whether the budget pays for so many NFE and verifier calls."""
    left = ((process.nfe_left, nfe), (process.calls_left, calls))
    return all(most is None or wanted <= most for most, wanted in left)


def rounds_of(process: Process, rounds: int | None, unlimited: int) -> int | None:
    """Rounds of a search: as told; None, until the budget ends; `unlimited` where there is none that would end it."""
    return unlimited if rounds is None and not process.open_ended else rounds


def largest(most: int, allowed: Callable[[int], bool]) -> int:
    """The largest number up to `most` that is allowed, 0 if none is; what is allowed for one is for all below."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle - 1)
    return low


def wave(process: Process, candidates: int | None, done: int, price: int) -> int:
    """How many candidates of so many NFE each go next, `done` having gone: up to what was asked for (None: as many as
    the budget pays for, 1 without one), WAVE at most, as far as the budget pays for them."""
    if candidates is None and not process.open_ended:
        return 1 - min(done, 1)
    most = WAVE if candidates is None else min(WAVE, candidates - done)
    return largest(most, lambda n: within(process, n * price, process.calls(0, n)))


def cost_of(process: Process, candidates: int | None, price: int) -> int | None:
    """NFE of a search that goes in such waves; None where it runs until the budget ends."""
    return None if candidates is None and process.open_ended else (candidates or 1) * price
