"""Compares searches of the same prompts: which is better, by how much, and whether it is more than chance.

    results = {name: genscale.scale(pipe, name, "clip", budget="480nfe")(prompts, ...) for name in ("best_of_n", "smc")}
    genscale.compare(results)

The same numbers as `genscale compare`, for searches that were run in Python or read by `genscale.load_result`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from genscale.errors import UsageError
from genscale.report import html_table, score_curves
from genscale.report.prompt_summary import curve_panels
from genscale.report.score_curves import CurvePanel, CurveTurn
from genscale.report.search_report import SearchReport
from genscale.results.comparison import BASE, ComparedRow, Comparison, ScoreSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class SideBySide:
    """The result of `compare`. found: the numbers, as `genscale compare` has them; results: the searches."""

    found: Comparison
    results: Mapping[str, SearchReport[Any]]

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
        return score_curves.figure(self._panels, title)

    def turning_points(self) -> list[CurveTurn]:
        """For each search and held-out verifier, where its mean over prompts is highest, with a 95 % interval, and
        whether it has turned down since. Empty for fewer than 5 prompts."""
        return [turn for panel in self._panels for turn in panel.turns()]

    @property
    def _panels(self) -> list[CurvePanel]:
        return curve_panels({name: result.summaries for name, result in self.results.items()})

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
    """Compare searches by prompt, with the first of them.

    results: {name: a scaled pipeline's output, its search, or what `genscale.load_result` reads}.
    UsageError: fewer than two, other prompts or another seed, or no score that all of them have.
    """
    if not isinstance(results, Mapping):
        raise UsageError("give the searches to compare as {name: result}.")
    found: dict[str, Any] = {name: getattr(r, "search", r) for name, r in results.items()}
    for name, result in found.items():
        if not hasattr(result, "summaries"):
            raise UsageError(f"'{name}' is a {type(result).__name__}, and no result of a search.")
    if len(found) < 2:
        raise UsageError("give at least two searches to compare, as {name: result}.")
    first = next(iter(found.values()))
    for name, result in found.items():
        if result.prompts != first.prompts or result.seed != first.seed:
            raise UsageError(f"'{name}' searched other prompts, or with another seed: give all the same.")
    summaries = {name: result.summaries for name, result in found.items()}
    common = len({result.judges for result in found.values()}) == 1
    if not common and not all(each[0].held_out for each in summaries.values()):
        raise UsageError(
            "scores of different verifiers do not compare: give all searches the same one as held_out=."
        )
    mine = next(iter(summaries.values()))
    best, judges = [s.best for s in mine], mine[0].held_out
    rows = [ComparedRow.of(BASE, first.base_nfe, None, [s.base for s in mine], best, judges)]
    for name, result in found.items():
        nfe = sum(s.spent for s in summaries[name]) / len(mine)
        candidates, against = [s.best for s in summaries[name]], None if result is first else best
        rows.append(ComparedRow.of(name, nfe, result.wall_seconds, candidates, against, judges))
    return SideBySide(
        Comparison(
            axis="search",
            prompts=first.prompts,
            searched=mine[0].searched if common else None,
            budget=first.limit if len({r.limit for r in found.values()}) == 1 else None,
            seed=first.seed,
            rows=tuple(rows if common else [replace(row, searched=None) for row in rows]),
        ),
        found,
    )


def _told(title: str, scores: ScoreSummary | None) -> dict[str, Any]:
    mean = "" if scores is None else scores.mean.text()
    gain = "" if scores is None or scores.gain is None else scores.gain.text(signed=True)
    return {title: mean, f"gain in {title.split(' (')[0]}": gain}
