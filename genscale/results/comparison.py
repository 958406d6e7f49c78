"""The numbers of a comparison: means over prompts with 95 % intervals, and paired gains over the first entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from genscale.numerics.intervals import Mean
from genscale.report.prompt_summary import ScoredCandidate
from genscale.report.score_curves import CurveTurn

BASE = "base"


@dataclass(frozen=True)
class ScoreSummary:
    """One kind of score: its value for each prompt, their mean, and the mean gain over the first entry."""

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
    """One entry, or the base. nfe, seconds: means over prompts, seconds of the whole run. diversity: the Vendi scores
    of the best candidates of each prompt; None where no prompt has one."""

    name: str
    nfe: float | None
    seconds: float | None
    searched: ScoreSummary | None
    held_out: dict[str, ScoreSummary]
    diversity: ScoreSummary | None = None

    @staticmethod
    def of(
        name: str,
        nfe: float | None,
        seconds: float | None,
        mine: Sequence[ScoredCandidate | None],
        first: Sequence[ScoredCandidate | None] | None,
        judges: Sequence[str],
        common: bool = True,
    ) -> ComparedRow:
        """mine: of each prompt the candidate that counts. first: those of the first entry, None for itself. judges: the
        held-out verifiers. common: whether the searched scores of both compare."""
        totals = None if first is None or not common else _totals(first)
        held = {
            judge: ScoreSummary.of(_held(mine, judge), None if first is None else _held(first, judge))
            for judge in judges
        }
        return ComparedRow(name, nfe, seconds, ScoreSummary.of(_totals(mine), totals), held)


def _totals(candidates: Sequence[ScoredCandidate | None]) -> list[float | None]:
    return [None if c is None else c.total for c in candidates]


def _held(candidates: Sequence[ScoredCandidate | None], judge: str) -> list[float | None]:
    return [None if c is None else c.held_out.get(judge) for c in candidates]


@dataclass(frozen=True)
class Comparison:
    """axis: what differs. searched: the name of the score that ranks, None where entries have different ones.

    turns: where the curve of each entry is highest, for each held-out verifier.
    """

    axis: str
    prompts: tuple[str, ...]
    searched: str | None
    budget: str | None
    seed: int | None
    rows: tuple[ComparedRow, ...]
    folder: str = ""
    files: tuple[str, ...] = field(default=())
    turns: tuple[CurveTurn, ...] = ()

    @property
    def entries(self) -> tuple[ComparedRow, ...]:
        return self.rows[1:]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"turns": [turn.as_dict() for turn in self.turns]}
