"""How many candidates a search of whole runs from noise may finish, by what the budget says before it begins."""

from __future__ import annotations

from genscale.protocol import Process


def affordable(process: Process) -> int | None:
    """Candidates that NFE and verifier calls still pay for from noise to a score; None where neither is limited."""
    limits = ((process.nfe_left, process.nfe()), (process.calls_left, process.calls(0, 1)))
    counts = [left // max(each, 1) for left, each in limits if left is not None]
    return min(counts) if counts else None


def rounds_of(process: Process, rounds: int | None, unlimited: int) -> int | None:
    """Rounds of a search: as told; None, until the budget ends; `unlimited` where there is none that would end it."""
    return unlimited if rounds is None and not process.open_ended else rounds
