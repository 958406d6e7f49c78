"""The answer of one query while it comes in, row by row."""

from __future__ import annotations

from collections.abc import Sequence

from genscale.protocol.answers import Graded, Prediction
from genscale.protocol.particles import Particles, cat

Answer = Particles | Prediction | Graded


class AnswerRows:
    """For each row of a query its place in an answer, once it has one.

    Rows that were answered together stay together: nothing is copied until `parts` are joined, and one part is the
    whole answer as it came.
    """

    def __init__(self, n: int) -> None:
        self._rows: list[tuple[Answer, int] | None] = [None] * n

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def complete(self) -> bool:
        return None not in self._rows

    def put(self, row: int, answer: Answer, at: int) -> None:
        """Row `row` of the query is row `at` of `answer`."""
        self._rows[row] = (answer, at)

    def forget(self, rows: Sequence[int]) -> None:
        """Drop these rows, and all after the first of them."""
        del self._rows[min(rows, default=len(self._rows)) :]

    def parts(self) -> list[Answer]:
        """The rows that are there, in order; those that follow each other in one answer are one part."""
        found: list[tuple[Answer, int, int]] = []
        for place in self._rows:
            if place is None:
                continue
            answer, at = place
            if found and found[-1][0] is answer and found[-1][2] == at:
                found[-1] = (answer, found[-1][1], at + 1)
            else:
                found.append((answer, at, at + 1))
        return [a if (start, stop) == (0, len(a)) else a[start:stop] for a, start, stop in found]

    def joined(self) -> Answer | None:
        """The whole answer; None if it has no row."""
        parts = self.parts()
        if not parts:
            return None
        if isinstance(parts[0], Particles):
            return cat([a for a in parts if isinstance(a, Particles)])
        if isinstance(parts[0], Graded):
            return Graded.cat([a for a in parts if isinstance(a, Graded)])
        return Prediction.cat([a for a in parts if isinstance(a, Prediction)])
