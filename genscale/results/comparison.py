"""What a comparison found: means over prompts with 95 % intervals, and paired gains over the first entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from genscale.commands.compare_entries import VERIFIER, Entry
from genscale.numerics.intervals import Mean

BASE = "base"


@dataclass(frozen=True)
class Scores:
    """Of one kind of score: its value for each prompt, their mean, and the mean gain over the first entry's."""

    each: tuple[float | None, ...]
    mean: Mean
    gain: Mean | None

    @staticmethod
    def of(each: Sequence[float | None], first: Sequence[float | None] | None) -> Scores:
        """first: those of the first entry, None for itself and where the two do not compare."""
        known = [v for v in each if v is not None]
        gain = None
        if first is not None:
            pairs = [v - w for v, w in zip(each, first, strict=True) if v is not None and w is not None]
            gain = Mean.of(pairs) if pairs else None
        return Scores(tuple(each), Mean.of(known), gain)


@dataclass(frozen=True)
class Row:
    """One entry, or the base. nfe, seconds: means over prompts, seconds of the whole run."""

    name: str
    nfe: float | None
    seconds: float | None
    searched: Scores | None
    held_out: dict[str, Scores]


@dataclass(frozen=True)
class Comparison:
    """axis: what differs. searched: the name of the score that steered, None where entries have different ones."""

    axis: str
    prompts: tuple[str, ...]
    searched: str | None
    budget: str | None
    seed: int | None
    rows: tuple[Row, ...]
    folder: str = ""
    files: tuple[str, ...] = field(default=())

    @staticmethod
    def of(axis: str, entries: Sequence[Entry], records: Sequence[dict[str, Any]]) -> Comparison:
        """records: what run.json holds of each entry."""
        first = records[0]["prompts"]
        common = axis != VERIFIER
        request = entries[0].request
        rows = [_row(BASE, first, "base", first, common, None, _base_nfe(records))]
        for entry, record in zip(entries, records, strict=True):
            told = record["prompts"]
            nfe = sum(p["nfe"] for p in told) / len(told)
            rows.append(_row(entry.name, told, "best", first, common, record["wall_seconds"], nfe))
        return Comparison(
            axis=axis,
            prompts=tuple(p["prompt"] for p in first),
            searched="+".join(request.select or request.verifiers) if common else None,
            budget=None if axis == "budget" else request.budget,
            seed=request.seed,
            rows=tuple(rows),
        )

    @property
    def entries(self) -> tuple[Row, ...]:
        return self.rows[1:]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _row(
    name: str,
    told: Sequence[dict[str, Any]],
    which: str,
    first: Sequence[dict[str, Any]],
    common: bool,
    seconds: float | None,
    nfe: float | None,
) -> Row:
    """`which` is "best" or "base"; `first` are the prompts of the first entry, who is compared with."""
    itself = told is first and which == "best"
    searched = None
    if common or which == "best":
        against = None if itself or not common else _totals(first, "best")
        searched = Scores.of(_totals(told, which), against)
    judges = list(dict.fromkeys(name for p in first for name in (p["best"] or {}).get("report", {})))
    held = {
        judge: Scores.of(_held(told, which, judge), None if itself else _held(first, "best", judge))
        for judge in judges
    }
    return Row(name, nfe, seconds, searched, held)


def _totals(told: Sequence[dict[str, Any]], which: str) -> list[float | None]:
    return [None if p[which] is None else p[which]["total"] for p in told]


def _held(told: Sequence[dict[str, Any]], which: str, judge: str) -> list[float | None]:
    return [(p[which] or {}).get("report", {}).get(judge) for p in told]


def _base_nfe(records: Sequence[dict[str, Any]]) -> float | None:
    """Of the pipeline alone: one candidate. Of independent draws all cost the same."""
    for record in records:
        if "ledger_of_base" in record:
            return float(record["ledger_of_base"]["evaluations"]) / len(record["prompts"])
        costs = [p["nfe"] / p["finished"] for p in record["prompts"] if p.get("kl_of_best")]
        if costs:
            return float(sum(costs)) / len(costs)
    return None
