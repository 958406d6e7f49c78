"""What a search found for one prompt, as plain data, and what is drawn from it.

Both a live SearchResult and a run's folder give `PromptSummary`s; rows of contact sheets, lines of scores, tables and
panels of curves are made here only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from genscale.numerics.order_statistics import noise_best
from genscale.numerics.selection_order import keeps_own, leaders, selection_order
from genscale.report.contact_sheet import SheetRow, Tile
from genscale.report.score_curves import PLACES, Curve, CurvePanel

if TYPE_CHECKING:
    from genscale.media import Item

ROWS = 12  # prompts on one contact sheet
RUNNERS_UP = 3  # beside the base and the best
NOISE = "if the verifier were pure noise"
VOTES = "votes"  # what ranks where scores are only numbers of answers
FOREIGN_BASE = -1  # place of a base that is not among the finished candidates


@dataclass(frozen=True)
class ScoredCandidate:
    """A finished candidate.

    place: its place among the finished candidates of its prompt, in the order they were scored; FOREIGN_BASE of a base
    that another run finished. total: the number that ranks. search, select, held_out: raw scores by verifier.
    nfe, seconds: spent by the prompt's search, and by the run, when it was scored. kept: whether its latents are
    there, so that it can be decoded. broken: the requirements that it breaks.
    """

    place: int
    id: int
    total: float
    search: Mapping[str, float] = field(default_factory=dict)
    select: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)
    nfe: int = 0
    seconds: float = 0.0
    origin: str = "prior"
    parent: int | None = None
    kept: bool = False
    broken: tuple[str, ...] = ()

    @staticmethod
    def of_record(record: Mapping[str, Any] | None) -> ScoredCandidate | None:
        """The best or the base of a prompt, as run.json has it; None where it says none."""
        if not record:
            return None
        roles = {role: record.get(role, {}) for role in ("search", "select", "held_out")}
        place, number, total = FOREIGN_BASE, record.get("candidate", 0), record["total"]
        return ScoredCandidate(place, number, total, **roles, nfe=record.get("nfe", 0))


@dataclass(frozen=True)
class PromptSummary:
    """One prompt's search.

    searched: the name of the score that ranks, "" where there is none. finals: in the order they were scored.
    base: the pipeline's own candidate. held_out: names of the held-out verifiers. spent: NFE when the search ended.
    margin: how much better than the base the winner must be; None: not at all. objectives: the scores that the Pareto
    front is of, by verifier, each with 1 (higher is better) or -1.
    draws: whether the finals are independent draws of the model, each with a total that does not depend on the others.
    """

    prompt: str
    searched: str
    finals: tuple[ScoredCandidate, ...]
    base: ScoredCandidate | None = None
    held_out: tuple[str, ...] = ()
    spent: int = 0
    margin: float | None = None
    objectives: Mapping[str, int] = field(default_factory=dict)
    draws: bool = False

    @property
    def ranking(self) -> list[ScoredCandidate]:
        """Best first; among equals the one scored first."""
        return [self.finals[i] for i in selection_order(*self._chosen_by)]

    @property
    def abstained(self) -> bool:
        """Whether the base is kept because no candidate is better than it by the margin."""
        return bool(self.finals) and keeps_own(*self._chosen_by)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the rules of the choice did, in a sentence each."""
        found = []
        best = self.best
        if best is not None and best.broken:
            found.append(
                f"no candidate satisfies what is required: the best breaks {' and '.join(best.broken)}"
            )
        if self.abstained:
            found.append(f"no candidate is better than base by more than {self.margin:.3g}: base is kept")
        if self.margin is not None and self.finals and self._chosen_by[2] is None:
            found.append(
                "abstain had no effect: the sampler did not finish base, the model's own candidate, itself"
            )
        return tuple(found)

    @property
    def _chosen_by(self) -> tuple[list[float], list[int], int | None, float | None]:
        place = None if self.base is None else self.base.place
        own = next((i for i, c in enumerate(self.finals) if c.place == place), None)
        return [c.total for c in self.finals], [len(c.broken) for c in self.finals], own, self.margin

    def pareto(self) -> list[ScoredCandidate]:
        """The candidates that no other dominates in the scores that pick the winner, in the order they were scored."""
        import torch

        from genscale.numerics.dominance import fronts

        points = [[s * {**c.search, **c.select}[n] for n, s in self.objectives.items()] for c in self.finals]
        front = fronts(torch.tensor(points, dtype=torch.float64).reshape(len(points), -1))
        return [c for c, number in zip(self.finals, front.tolist(), strict=True) if number == 0]

    @property
    def best(self) -> ScoredCandidate | None:
        return self.ranking[0] if self.finals else None

    def best_so_far(self) -> list[ScoredCandidate]:
        """Each candidate that was the best when it was scored."""
        return [self.finals[i] for i in leaders(*self._chosen_by)]

    def to_show(self, runners_up: int = RUNNERS_UP) -> list[ScoredCandidate]:
        """The base, the best and the runners-up, as far as their latents are kept."""
        base = self.base
        others = [c for c in self.ranking[: runners_up + 1] if base is None or c.place != base.place]
        return [c for c in (*([] if base is None else [base]), *others) if c.kept]


def score_lines(candidate: ScoredCandidate, searched: str = "") -> tuple[str, ...]:
    """One line for each score: `name  value`, with its role where it did not steer the search. searched: as of the
    summary; of answers only the votes."""
    ranks = {VOTES: candidate.total} if searched == VOTES else candidate.search
    roles = ((ranks, ""), (candidate.select, "  (select)"), (candidate.held_out, "  (held out)"))
    return tuple(f"{name}  {value:.4g}{note}" for scores, note in roles for name, value in scores.items())


def sheet_row(
    summary: PromptSummary,
    candidates: Sequence[ScoredCandidate],
    items: Sequence[Item],
    best: str = "best",
) -> SheetRow:
    """A row of a contact sheet. items: the image or video of each candidate. best: the label of the first."""
    ranks = {c.place: n for n, c in enumerate(summary.ranking)}
    tiles = []
    for candidate, item in zip(candidates, items, strict=True):
        rank, note = ranks.get(candidate.place), ""
        label = "" if rank is None else {0: best, 1: "2nd", 2: "3rd"}.get(rank, f"{rank + 1}th")
        if summary.base is not None and candidate.place == summary.base.place:
            label = {0: f"base = {best}", None: "base"}.get(rank, f"base ({label})")
        elif summary.base is not None:
            note = f"{candidate.total - summary.base.total:+.3f}"
        tiles.append(Tile.of(item, label, score_lines(candidate, summary.searched), note, winner=rank == 0))
    return SheetRow(summary.prompt, tuple(tiles))


# ---------------------------------------------------------------- curves


def curve_panels(searches: Mapping[str, Sequence[PromptSummary]]) -> list[CurvePanel]:
    """Best score so far against NFE, one curve a search of the same prompts; the base is that of the first search.

    One panel for the searched score, where all searches have the same one, and one for each held-out verifier.
    """
    given = {name: [s for s in some if s.finals] or list(some) for name, some in searches.items()}
    first = next(iter(given.values()))
    panels = []
    names = {s.searched for some in given.values() for s in some}
    if len(names) == 1 and (searched := names.pop()):
        alone = len(given) == len(first) == 1
        dots = [(float(c.nfe), c.total) for c in first[0].finals] if alone else []
        lines = [Curve(name, [_points(s, None) for s in found]) for name, found in given.items()]
        bases = [None if s.base is None else s.base.total for s in first]
        panels.append(CurvePanel(searched, lines, base_level(bases), dots, _noise(first, _noise_points)))
    for judge in first[0].held_out if first else ():
        lines = [Curve(name, [_points(s, judge) for s in found]) for name, found in given.items()]
        bases = [None if s.base is None else s.base.held_out.get(judge) for s in first]
        flat = _noise(first, partial(_flat_points, judge=judge))
        panels.append(CurvePanel(f"{judge} (held out)", lines, base_level(bases), noise=flat, judge=judge))
    return panels


def _noise(
    summaries: Sequence[PromptSummary], points: Callable[[PromptSummary], list[tuple[float, float]]]
) -> Curve | None:
    """The mean over prompts of what pure noise gives; None where the candidates of one are no independent draws."""
    each = [points(s) if s.draws and len(s.finals) > 1 else [] for s in summaries]
    return Curve(NOISE, each) if each and all(each) else None


def _noise_points(summary: PromptSummary) -> list[tuple[float, float]]:
    """(NFE, the best total that is expected) after so many candidates, if the same totals had come in any order
    (genscale.numerics.order_statistics.noise_best)."""
    totals = [c.total for c in summary.finals]
    places = np.unique(np.linspace(1, len(totals), min(len(totals), PLACES)).round().astype(int)).tolist()
    return [(float(summary.finals[n - 1].nfe), noise_best(totals, n)) for n in places]


def _flat_points(summary: PromptSummary, judge: str) -> list[tuple[float, float]]:
    """The held-out score of the pipeline's own candidate, wherever the search is: noise picks a random candidate, and
    the pipeline's own is one."""
    own = None if summary.base is None else summary.base.held_out.get(judge)
    return [] if own is None else [(float(summary.finals[0].nfe), own), (float(summary.spent), own)]


def curve_name(prompts: int) -> str:
    """What the only curve of a plot is called."""
    return "best so far" if prompts == 1 else f"mean best of {prompts} prompts, 95 % interval"


def base_level(values: Sequence[float | None]) -> tuple[str, float] | None:
    """The mean over prompts of the pipeline's own candidates; None unless every prompt has one."""
    known = [v for v in values if v is not None]
    whole = known and len(known) == len(values)
    return ("base", sum(known) / len(known)) if whole else None


def _points(summary: PromptSummary, judge: str | None) -> list[tuple[float, float]]:
    """(NFE, value) of each new best, and of the last one again where the search ended."""
    points = [
        (float(c.nfe), c.total if judge is None else c.held_out[judge])
        for c in summary.best_so_far()
        if judge is None or judge in c.held_out
    ]
    if points and points[-1][0] < summary.spent:
        points.append((float(summary.spent), points[-1][1]))
    return points


# ---------------------------------------------------------------- tables


def curve_records(summary: PromptSummary) -> list[dict[str, Any]]:
    """nfe, seconds, candidate, total and held-out scores of each new best."""
    return [
        {
            "nfe": c.nfe,
            "seconds": c.seconds,
            "candidate": c.id,
            "total": c.total,
            "held_out": dict(c.held_out),
        }
        for c in summary.best_so_far()
    ]


def candidate_records(summary: PromptSummary) -> list[dict[str, Any]]:
    """Finished candidates, best first. Held-out scores are those of every new best and of the base."""
    found = []
    for candidate in summary.ranking:
        scores = {**candidate.search, **candidate.select}
        found.append(
            {
                "candidate": candidate.id,
                "origin": candidate.origin,
                "parent": candidate.parent,
                **({VOTES: candidate.total} if summary.searched == VOTES else {}),
                **({"total": candidate.total} if len(scores) > 1 else {}),
                **scores,
                **{f"{n} (held out)": v for n, v in candidate.held_out.items()},
                "NFE": candidate.nfe,
            }
        )
    return found


def prompt_records(summaries: Sequence[PromptSummary]) -> list[dict[str, Any]]:
    """One record a prompt: base and best by the searched and by the held-out scores."""
    found: list[dict[str, Any]] = []
    for summary in summaries:
        told: dict[str, Any] = {"prompt": summary.prompt}
        for name, candidate in (("base", summary.base), ("best", summary.best)):
            if candidate is not None:
                told[f"{name} {summary.searched}".strip()] = candidate.total
                told |= {f"{name} {n} (held out)": v for n, v in candidate.held_out.items()}
        found.append(told | {"candidates": len(summary.finals), "NFE": summary.spent})
    return found
