"""A comparison of finished runs, from their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from genscale.commands.compare_entries import VERIFIER, ComparedRun
from genscale.report.prompt_summary import ScoredCandidate
from genscale.results.comparison import BASE, ComparedRow, Comparison, ScoreSummary


def comparison_of_runs(
    axis: str, entries: Sequence[ComparedRun], records: Sequence[dict[str, Any]]
) -> Comparison:
    """What a comparison found. records: what run.json holds of each entry."""
    first = records[0]["prompts"]
    common = axis != VERIFIER
    request = entries[0].request
    best, base = _candidates(first, "best"), _candidates(first, "base")
    judges = list(dict.fromkeys(name for c in best if c is not None for name in c.held_out))
    of_base = ComparedRow.of(BASE, _base_nfe(records), None, base, best, judges)
    rows = [of_base if common else replace(of_base, searched=None)]
    for n, (entry, record) in enumerate(zip(entries, records, strict=True)):
        prompts = record["prompts"]
        nfe = sum(p["nfe"] for p in prompts) / len(prompts)
        mine, against = _candidates(prompts, "best"), None if n == 0 else best
        row = ComparedRow.of(entry.name, nfe, record["wall_seconds"], mine, against, judges, common)
        rows.append(replace(row, diversity=_diversity(prompts, None if n == 0 else first)))
    return Comparison(
        axis=axis,
        prompts=tuple(p["prompt"] for p in first),
        searched="+".join(request.select or request.verifiers) if common else None,
        budget=None if axis == "budget" else f"{request.budget} (pool)" if request.pool else request.budget,
        seed=request.seed,
        rows=tuple(rows),
    )


def _candidates(prompts: Sequence[dict[str, Any]], which: str) -> list[ScoredCandidate | None]:
    """The "best" or the "base" of each prompt."""
    return [ScoredCandidate.of_record(p[which]) for p in prompts]


def _diversity(
    prompts: Sequence[dict[str, Any]], first: Sequence[dict[str, Any]] | None
) -> ScoreSummary | None:
    """Vendi scores of the best candidates, and the gain over the first entry, where as many of each were compared."""
    known = [p.get("diversity") or {} for p in prompts]
    if not any(known):
        return None
    others = [p.get("diversity") or {} for p in first or ()]
    alike = [d.get("of") for d in others] == [d.get("of") for d in known]
    return ScoreSummary.of(
        [d.get("vendi") for d in known], [d.get("vendi") for d in others] if alike else None
    )


def _base_nfe(records: Sequence[dict[str, Any]]) -> float | None:
    """NFE of the pipeline alone, a single candidate; independent draws all cost the same."""
    for record in records:
        if "ledger_of_base" in record:
            return float(record["ledger_of_base"]["evaluations"]) / len(record["prompts"])
        costs = [p["nfe"] / p["finished"] for p in record["prompts"] if p.get("kl_of_best")]
        if costs:
            return float(sum(costs)) / len(costs)
    return None
