"""What a comparison found: means over prompts with 95 % intervals, and paired gains over the first entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from genscale.numerics.intervals import Mean

BASE = "base"


@dataclass(frozen=True)
class ScoreSummary:
    """Of one kind of score: its value for each prompt, their mean, and the mean gain over the first entry's."""

    each: tuple[float | None, ...]
    mean: Mean
    gain: Mean | None

    @staticmethod
    def of(each: Sequence[float | None], first: Sequence[float | None] | None) -> ScoreSummary:
        """first: those of the first entry, None for itself and where the two do not compare."""
        known = [v for v in each if v is not None]
        gain = None
        if first is not None:
            pairs = [(v, w) for v, w in zip(each, first, strict=True) if v is not None and w is not None]
            gain = Mean.of_gains([v for v, _ in pairs], [w for _, w in pairs]) if pairs else None
        return ScoreSummary(tuple(each), Mean.of(known), gain)


@dataclass(frozen=True)
class ComparedRow:
    """One entry, or the base. nfe, seconds: means over prompts, seconds of the whole run."""

    name: str
    nfe: float | None
    seconds: float | None
    searched: ScoreSummary | None
    held_out: dict[str, ScoreSummary]


@dataclass(frozen=True)
class Comparison:
    """axis: what differs. searched: the name of the score that steered, None where entries have different ones."""

    axis: str
    prompts: tuple[str, ...]
    searched: str | None
    budget: str | None
    seed: int | None
    rows: tuple[ComparedRow, ...]
    folder: str = ""
    files: tuple[str, ...] = field(default=())

    @property
    def entries(self) -> tuple[ComparedRow, ...]:
        return self.rows[1:]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
