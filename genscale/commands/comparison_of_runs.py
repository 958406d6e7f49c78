"""A comparison of finished runs, from their records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genscale.commands.compare_entries import VERIFIER, ComparedRun
from genscale.results.comparison import BASE, ComparedRow, Comparison, ScoreSummary


def comparison_of_runs(
    axis: str, entries: Sequence[ComparedRun], records: Sequence[dict[str, Any]]
) -> Comparison:
    """What a comparison found. records: what run.json holds of each entry."""
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


def _row(
    name: str,
    told: Sequence[dict[str, Any]],
    which: str,
    first: Sequence[dict[str, Any]],
    common: bool,
    seconds: float | None,
    nfe: float | None,
) -> ComparedRow:
    """`which` is "best" or "base"; `first` are the prompts of the first entry, who is compared with."""
    itself = told is first and which == "best"
    searched = None
    if common or which == "best":
        against = None if itself or not common else _totals(first, "best")
        searched = ScoreSummary.of(_totals(told, which), against)
    judges = list(dict.fromkeys(name for p in first for name in (p["best"] or {}).get("held_out", {})))
    held = {
        judge: ScoreSummary.of(_held(told, which, judge), None if itself else _held(first, "best", judge))
        for judge in judges
    }
    return ComparedRow(name, nfe, seconds, searched, held)


def _totals(told: Sequence[dict[str, Any]], which: str) -> list[float | None]:
    return [None if p[which] is None else p[which]["total"] for p in told]


def _held(told: Sequence[dict[str, Any]], which: str, judge: str) -> list[float | None]:
    return [(p[which] or {}).get("held_out", {}).get(judge) for p in told]


def _base_nfe(records: Sequence[dict[str, Any]]) -> float | None:
    """Of the pipeline alone: one candidate. Of independent draws all cost the same."""
    for record in records:
        if "ledger_of_base" in record:
            return float(record["ledger_of_base"]["evaluations"]) / len(record["prompts"])
        costs = [p["nfe"] / p["finished"] for p in record["prompts"] if p.get("kl_of_best")]
        if costs:
            return float(sum(costs)) / len(costs)
    return None
