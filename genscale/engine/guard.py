"""A guard: a second verifier that ends a search when it falls while the searched score goes on rising."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from genscale.call_syntax import outside_brackets
from genscale.engine.archive import Entry
from genscale.errors import UsageError


@dataclass(frozen=True)
class Guard:
    """Stop when a second verifier has fallen below its best at several improvements of the searched score in a row.

    The guard scores each new leader, that is, each finished candidate whose total is above all before it, and no other.
    A leader falls if the guard's score of it is more than `drop` below the highest that it gave to a leader before. The
    search ends when the last `patience` leaders have all fallen: the searched score rises, and the guard turned down.
    Leaders that are level with the best, as many are under a judge that says 0 or 1, do not fall.

    It is the third class of criteria (UP) of Prechelt 1998, "Early Stopping -- But When?", where the error on a
    validation set has risen in s strips in a row, on the path of the leaders. Its scores end the search
    and pick no winner: that is the last leader, unless select verifiers say otherwise. They are not counted as verifier
    calls of the budget.

    verifier: a registered name, or any verifier. On the command line also calibrated:DIR, for the calibrated P(right).
    patience: leaders in a row that fall (3, ours). drop: in the guard's unit (0).
    """

    verifier: Any
    patience: int = 3
    drop: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise UsageError(f"patience={self.patience} of guard must be at least 1.")
        if not 0 <= self.drop < math.inf:
            raise UsageError(f"drop={self.drop} of guard must be a number of 0 or more.")

    @property
    def name(self) -> str:
        """The name of its scores."""
        if isinstance(self.verifier, str):
            return self.verifier
        named = getattr(self.verifier, "name", None) or getattr(self.verifier, "__name__", None)
        return str(named or type(self.verifier).__name__)

    def stops(self, totals: Sequence[float]) -> bool:
        """False: totals alone do not tell. A search asks `watching` its candidates."""
        return False

    def watching(self, finals: Sequence[Entry]) -> Watch:
        """The rule for a search with these finished candidates, in the order of the totals that it is asked about."""
        return Watch(self, finals)

    def turned(self, leaders: Sequence[float]) -> bool:
        """Whether the last leaders have fallen. leaders: the guard's scores of all of them, in order."""
        best, fallen = -math.inf, 0
        for score in leaders:
            fallen = fallen + 1 if score < best - self.drop else 0
            best = max(best, score)
        return fallen >= self.patience

    def __str__(self) -> str:
        changed = [f for f in fields(self)[1:] if getattr(self, f.name) != f.default]
        return f"guard:{self.name}" + "".join(f":{f.name}={getattr(self, f.name)!r}" for f in changed)


@dataclass(frozen=True)
class Watch:
    """A guard with the finished candidates of one search (see `genscale.engine.stopping.StopRule`)."""

    guard: Guard
    finals: Sequence[Entry]

    def stops(self, totals: Sequence[float]) -> bool:
        best, leaders = -math.inf, list[float]()
        for total, entry in zip(totals, self.finals, strict=False):
            if total > best:
                best = total
                score = entry.guard.get(self.guard.name)  # none where it was not finite
                leaders += [] if score is None else [score]
        return self.guard.turned(leaders)

    def __str__(self) -> str:
        return str(self.guard)


def read_guard(text: str, part: str) -> Guard:
    """`guard:VERIFIER:patience=3:drop=0.1`, a part of the text of a stop; the verifier may hold colons and brackets.

    UsageError: it cannot be read.
    """
    _, *words = outside_brackets(part.strip(), ":")
    at = next((i for i, word in enumerate(words) if re.fullmatch(r"\s*\w+\s*=[^(]*", word)), len(words))
    given: dict[str, Any] = {}
    for word in words[at:]:
        key, _, value = (p.strip() for p in word.partition("="))
        if key in given:
            raise UsageError(f"stop '{text}' gives {key} of guard twice: give it once.")
        try:
            given[key] = {"patience": int, "drop": float}[key](value)
        except (KeyError, ValueError):
            raise UsageError(f"stop '{text}': cannot read '{word}'; write patience=3 or drop=0.1.") from None
    verifier = ":".join(words[:at]).strip()
    if not verifier:
        raise UsageError(f"stop '{text}': cannot read '{part}'; write guard:NAME, guard:NAME:patience=3.")
    return Guard(verifier, **given)
