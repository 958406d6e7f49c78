"""Searches of the same prompts side by side: who is better, by how much, and is it more than chance.

    results = {name: genscale.scale(pipe, name, "clip", budget="480nfe")(prompts, ...) for name in ("best_of_n", "smc")}
    genscale.compare(results)

The same numbers as those of `genscale compare`, for searches that were run in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genscale.errors import UsageError
from genscale.report import html_table
from genscale.results import result_figures
from genscale.results.comparison import BASE, ComparedRow, Comparison, ScoreSummary
from genscale.results.result import SearchResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class SideBySide:
    """What `compare` found. found: the numbers, as `genscale compare` has them; results: the searches."""

    found: Comparison
    results: Mapping[str, SearchResult]

    def __getitem__(self, name: str) -> ComparedRow:
        """The numbers of one search, or of "base": `nfe`, `searched`, `held_out`; each with `mean` and `gain`."""
        return next(row for row in self.found.rows if row.name == name)

    def table(self) -> list[dict[str, Any]]:
        """Means over prompts with 95 % intervals, and those of the paired gains over the first search, as records."""
        judges = list(self.found.entries[0].held_out)
        records = []
        for row in self.found.rows:
            told: dict[str, Any] = {
                "search": row.name,
                "NFE": None if row.nfe is None else round(row.nfe),
                "s": row.seconds,
            }
            if self.found.searched is not None:
                told |= _told(f"{self.found.searched} (searched)", row.searched)
            for judge in judges:
                told |= _told(f"{judge} (held out)", row.held_out.get(judge))
            records.append(told)
        return records

    def plot(self, title: str = "") -> Figure:
        """Best score so far against NFE, searched and held out: means over prompts with 95 % intervals."""
        return result_figures.plot(self.results, title)

    @property
    def _note(self) -> str:
        n, first = len(self.found.prompts), self.found.entries[0].name
        how = (
            f"{n} prompts; ± and (... to ...) are 95 % intervals over prompts"
            if n > 1
            else "one prompt gives no interval"
        )
        return f"{how}; gains are paired by prompt, over {first}"

    def __repr__(self) -> str:
        return "\n".join(
            [*(", ".join(f"{k} {v}" for k, v in r.items() if v) for r in self.table()), self._note]
        )

    def _repr_html_(self) -> str:
        return html_table.table(self.table(), self._note)


def compare(results: Mapping[str, Any]) -> SideBySide:
    """Compare searches by prompt, with the first of them; results: {name: a scaled pipeline's output, or its search}.

    UsageError: fewer than two, other prompts or another seed, or no score that all of them have.
    """
    found: dict[str, SearchResult] = {name: getattr(r, "search", r) for name, r in results.items()}
    if len(found) < 2:
        raise UsageError("give at least two searches to compare, as {name: result}.")
    first = next(iter(found.values()))
    for name, result in found.items():
        if result.prompts != first.prompts or result.seed != first.seed:
            raise UsageError(f"'{name}' searched other prompts, or with another seed: give all the same.")
    common = len({_judged_by(r) for r in found.values()}) == 1
    if not common and not all(r.searches[0].roles.held_out.members for r in found.values()):
        raise UsageError(
            "scores of different verifiers do not compare: give all searches the same one as held_out=."
        )
    rows = [_row(BASE, first, first, common, base=True)]
    rows += [_row(name, result, first, common) for name, result in found.items()]
    return SideBySide(
        Comparison(
            axis="search",
            prompts=first.prompts,
            searched=result_figures.searched(first) if common else None,
            budget=str(first.budget) if len({str(r.budget) for r in found.values()}) == 1 else None,
            seed=first.seed,
            rows=tuple(rows),
        ),
        found,
    )


def _judged_by(result: SearchResult) -> tuple[Any, ...]:
    judge = result.searches[0].roles.judge
    return judge.ensemble, tuple((j.name, j.weight) for j in judge.members)


def _row(
    name: str, result: SearchResult, first: SearchResult, common: bool, base: bool = False
) -> ComparedRow:
    mine, others = _entries(result, base), _entries(first, base=False)
    against = None if result is first and not base else others
    searched = None
    if common:
        totals = None if against is None else [_total(first, e) for e in against]
        searched = ScoreSummary.of([_total(result, e) for e in mine], totals)
    held = {
        judge: ScoreSummary.of(
            [_held(e, judge) for e in mine], None if against is None else [_held(e, judge) for e in against]
        )
        for judge in first.searches[0].roles.held_out.names
    }
    if base:
        return ComparedRow(name, float(first.searches[0].process.nfe()), None, searched, held)
    nfe = sum(s.spent for s in result.searches) / len(result.searches)
    return ComparedRow(name, nfe, sum(result.ledger.seconds.values()), searched, held)


def _entries(result: SearchResult, base: bool) -> list[Any]:
    """The candidate of every prompt that counts; None where there is none."""
    if base:
        return [result.base(i) for i in range(len(result.prompts))]
    return [next(iter(result.ranking(i)), None) for i in range(len(result.prompts))]


def _total(result: SearchResult, entry: Any) -> float | None:
    return None if entry is None else result.total(entry)


def _held(entry: Any, judge: str) -> float | None:
    return None if entry is None else entry.held_out.get(judge)


def _told(title: str, scores: ScoreSummary | None) -> dict[str, Any]:
    mean = "" if scores is None else scores.mean.text()
    gain = "" if scores is None or scores.gain is None else scores.gain.text(signed=True)
    return {title: mean, f"gain in {title.split(' (')[0]}": gain}
