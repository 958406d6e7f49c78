"""Candidate ids, and searches that are repeated as a whole while the budget pays for another pass."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Protocol

from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.errors import BudgetExhausted
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.queries import Query


class Numbered:
    """Gives out candidate ids in order. next_id: the first one that is still free."""

    def __init__(self, first: int = 0) -> None:
        self.next_id = first

    def number(self) -> int:
        self.next_id += 1
        return self.next_id - 1


class WholePass(Protocol):
    """One pass of a search, from fresh noise to scored images. next_id: the first candidate id that it did not use."""

    next_id: int

    def run(self) -> Generator[Query, Any, Any]: ...


def repeat_passes(
    process: Process, key: Key, begin: Callable[[int, Any], WholePass | None]
) -> Generator[Query, Any, list[Any]]:
    """Run whole passes while the budget pays for another (a single pass without any limit), then spend the rest on
    plain candidates. Returns the results of the completed passes.

    begin: (id of the first candidate, the previous pass or None) -> the next pass; None: the budget pays for none.
    """
    results: list[Any] = []
    first, current = 0, None
    try:
        while (following := begin(first, current)) is not None:
            current = following
            results.append((yield from current.run()))
            first = current.next_id
            if not process.open_ended:
                break
    except BudgetExhausted:  # time was up during a pass
        first = first if current is None else current.next_id
    with suppress(BudgetExhausted):
        yield from spend_leftover_budget(process, key, first)
    return results
