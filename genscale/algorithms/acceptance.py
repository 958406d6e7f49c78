"""Thresholds for rejecting a path at a preview and accepting a finished candidate, from a verifier's calibration.

The previews' thresholds have one parameter. By the theory of renewal rewards a path is worth going on with while
P(right) x worth >= the NFE that it still takes, where `worth` is what an accepted candidate may cost; so the threshold
at a preview is (NFE to the end) / worth. The optimum over `worth` and the threshold for finished candidates is looked
for on the table of labelled candidates (`genscale.numerics.renewal`), whose probabilities are cross-validated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from genscale.numerics.renewal import Outcome, Paths, follow, outcome
from genscale.protocol.calibration import Calibration

LEAST = 20  # accepted candidates of the table below which a threshold would be fitted to chance (ours)
SKILL = 0.02  # share of the labels' variance that a preview must explain to be looked at (ours)
IDLE = 0.02  # a preview that rejects a smaller share of the paths that reach it is not scored (ours)
_STRICTNESS = (0.0, *torch.logspace(-2, 0.6, 16, dtype=torch.float64).tolist())  # (NFE of a path) / worth
_ACCEPTS = (0.99, *(i / 50 for i in range(49, -1, -1)))  # thresholds for finished candidates that are tried
_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # that a prompt may spend, where mean_nfe chooses how many
PRIOR_PATHS = 2.0  # paths that the calibration's prompts count in a prompt's share of accepted paths (ours)


@dataclass(frozen=True)
class Thresholds:
    """rejects: (step, least score of a preview there), by step. accept: least score of a finished candidate.

    expected: on the calibration's table, with the thresholds of a prompt's first path; None where there was no table to
    judge by. most: NFE that a prompt may spend; None: what the budget allows.
    """

    rejects: tuple[tuple[int, float], ...]
    accept: float
    expected: Outcome | None = None
    most: float | None = None

    def after(self, lost: int) -> tuple[tuple[int, float], ...]:
        """The rejects of a prompt that has lost so many paths.

        A path is worth the NFE of an accepted image, which is in inverse proportion to the prompt's share of accepted
        paths. The posterior mean of that share falls by 1 + lost / PRIOR_PATHS, and the thresholds with it; else all
        paths of a hard prompt would be rejected at once. Numbers that a user gave stay.
        """
        if self.expected is None:
            return self.rejects
        return tuple((step, least / (1 + lost / PRIOR_PATHS)) for step, least in self.rejects)


@dataclass(frozen=True)
class Table:
    """The columns of a calibration that are looked at.

    steps: of the previews, k of them. costs: NFE up to each, and to the end, k + 1. most: NFE that a prompt may spend.
    """

    calibration: Calibration
    steps: tuple[int, ...]
    columns: tuple[int, ...]
    costs: tuple[int, ...]
    most: float

    @property
    def previews(self) -> Tensor:
        return self.calibration.previews[:, list(self.columns)].double()

    @property
    def prompts(self) -> Tensor:
        numbers: Tensor = torch.unique(self.calibration.prompts, return_inverse=True)[1]
        return numbers

    def judged(self, rejects: Tensor, accept: float) -> Outcome:
        """What a search with these thresholds [k] is expected to give."""
        return self.outcome(self.paths(rejects, accept), accept)

    def paths(self, rejects: Tensor, accept: float) -> Paths:
        """What these thresholds make of the labelled candidates."""
        known = self.calibration
        costs = torch.tensor(self.costs, dtype=torch.float64)
        cost, accepted = follow(self.previews, known.finals.double(), rejects, torch.tensor(accept), costs)
        return Paths(cost, accepted, known.right.double(), self.prompts)

    def outcome(self, paths: Paths, accept: float, most: float | None = None) -> Outcome:
        """The expectations of such paths. most: NFE that a prompt may spend, the table's own by default."""
        return outcome(paths, self.most if most is None else most, unknown=accept)

    def caps(self) -> tuple[float, ...]:
        """NFE that a prompt may spend: whole images, up to the table's own limit."""
        each = self.costs[-1]
        return (*(float(each * n) for n in _IMAGES if each * n < self.most), self.most)

    def without_previews(self) -> Table:
        """The same where only finished candidates are judged."""
        return replace(self, steps=(), columns=(), costs=self.costs[-1:])

    def rejects(self, strictness: float) -> Tensor:
        """Thresholds [k] of the previews; strictness: (NFE of a path) / worth."""
        costs = torch.tensor(self.costs, dtype=torch.float64)
        return (strictness * (1 - costs[:-1] / costs[-1])).clamp(max=1.0)


def informative(calibration: Calibration) -> tuple[int, ...]:
    """Columns of the previews that explain some of the labels' variance (the Brier skill score)."""
    right = calibration.right.double()
    spread = (right - right.mean()).square().mean()
    missed = (right[:, None] - calibration.previews.double()).square().mean(0)
    skill = 1 - missed / spread.clamp(min=1e-12)
    return tuple(i for i, value in enumerate(skill.tolist()) if value >= SKILL)


def columns_at(calibration: Calibration, shares: Mapping[int, float], only: Sequence[int]) -> dict[int, int]:
    """For every step, the column of `only` whose progress is nearest. shares: step -> share of the run behind it."""
    return {
        step: min(only, key=lambda i: abs(calibration.progress[i] - share)) for step, share in shares.items()
    }


@lru_cache(maxsize=64)  # asked for by every prompt of a run
def chosen(
    table: Table, p: float | None = None, mean_nfe: float | None = None, accept: float | None = None
) -> Thresholds | None:
    """The thresholds that spend least for a wanted accuracy `p`, or that are most often right for a mean NFE, for which
    the most that a prompt may spend is chosen, too.

    accept: a threshold for finished candidates that is given. Where no threshold reaches `p` on the table, it is `p`.
    None: the table has too few accepted candidates.
    """
    if mean_nfe is not None:
        return _within_mean(table, mean_nfe, _ACCEPTS if accept is None else (accept,))
    tried = []
    wanted = p if accept is None else None
    for rejects in _tried_rejects(table):
        found = ((a, table.judged(rejects, a)) for a in (_ACCEPTS if accept is None else (accept,)))
        found = ((a, expected) for a, expected in found if expected.accepted >= LEAST)
        tried += [
            (rejects, a, expected) for a, expected in (found if wanted is None else _accurate(found, wanted))
        ]
    if not tried:  # where an accuracy is wanted, none is known to reach it: what the verifier says decides
        return None if wanted is None else chosen(table, accept=wanted)
    return _without_idle(table, *min(tried, key=lambda t: (t[2].cost, -t[2].accuracy))[:2])


def _tried_rejects(table: Table) -> list[Tensor]:
    return [table.rejects(strictness) for strictness in (_STRICTNESS if table.steps else (0.0,))]


def _within_mean(table: Table, mean_nfe: float, accepts: Sequence[float]) -> Thresholds | None:
    """The thresholds that are most often right for a mean NFE, and what a prompt may spend.

    A prompt for which nothing is accepted spends all that it may, so few such prompts can use up the mean: each pair of
    thresholds gets the largest limit of a prompt that keeps to it. A larger limit is never less often right.
    accepts: the thresholds for finished candidates that are tried.
    """
    tried: list[tuple[Tensor, float, float, Outcome]] = []
    caps = table.caps()
    for rejects in _tried_rejects(table):
        for accept in accepts:
            paths = table.paths(rejects, accept)
            if int(paths.accepted.sum()) < LEAST:
                continue
            expected = table.outcome(paths, accept, caps[0])
            low, high = 0, len(caps)  # the cost rises with the limit
            while high - low > 1:
                middle = (low + high) // 2
                more = table.outcome(paths, accept, caps[middle])
                if more.cost <= mean_nfe:
                    low, expected = middle, more
                else:
                    high = middle
            tried.append((rejects, accept, caps[low], expected))
    if not tried:
        return None
    kept = [t for t in tried if t[-1].cost <= mean_nfe] or [min(tried, key=lambda t: t[-1].cost)]
    rejects, accept, most, _ = max(kept, key=lambda t: (t[-1].overall, -t[-1].cost))
    return replace(_without_idle(replace(table, most=most), rejects, accept), most=most)


def _accurate(found: Iterable[tuple[float, Outcome]], p: float) -> list[tuple[float, Outcome]]:
    """The thresholds that reach the accuracy, as do all that are higher.

    found: from the highest. The accuracy rises with the threshold, but for chance: a low one that reaches it by chance
    is not taken.
    """
    seen = []
    for accept, expected in found:
        seen.append((accept, expected))
        if expected.accuracy < p:
            break
    return [pair for pair in seen if pair[1].careful >= p]


def _without_idle(table: Table, rejects: Tensor, accept: float) -> Thresholds:
    """The thresholds without previews that reject almost nothing."""
    arriving = torch.ones(len(table.calibration.finals), dtype=torch.bool)
    kept = torch.zeros_like(rejects)
    for i in range(len(rejects)):
        lost = arriving & (table.previews[:, i] < rejects[i])
        if int(lost.sum()) >= IDLE * max(int(arriving.sum()), 1) and bool(lost.any()):
            kept[i], arriving = rejects[i], arriving & ~lost
    expected = table.judged(kept, accept)
    pairs = zip(table.steps, kept.tolist(), strict=True)
    return Thresholds(tuple((step, least) for step, least in pairs if least > 0), accept, expected)
