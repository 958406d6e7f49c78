"""How the scores of several verifiers are combined to one number.

`joined` does it, from raw scores [candidates, verifiers] and what is known of each verifier (`Column`). Of every total
higher is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.numerics.dominance import crowding, fronts
from genscale.report.prompt_summary import VOTES

LEAST = 1e-12
"""Probabilities are kept this far from 0 and 1 before a logarithm (ours), so that one wrong 0 is no veto for ever."""


@dataclass(frozen=True)
class Column:
    """What an ensemble has to know of one verifier.

    weight: 0: its scores are not part of the total. mean, sd: of its scores in general, by a calibration; None: not
    known, and those of the candidates stand in for them. noise: sd of its score under changes that do not matter;
    None: not known. probability: whether its scores are probabilities, in [0, 1]. relative: whether a candidate's score
    depends on the other candidates, as that of an embedding does.
    """

    weight: float = 1.0
    mean: float | None = None
    sd: float | None = None
    noise: float | None = None
    probability: bool = False
    relative: bool = False

    @property
    def calibrated(self) -> bool:
        return self.mean is not None and self.sd is not None


def weighted_sum(raw: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k s_k: [n, k], [k] -> [n]. A candidate's total does not depend on the others; weights set the scales."""
    return raw @ weights


def mean_rank(raw: Tensor, weights: Tensor) -> Tensor:
    """Minus the weighted mean of fractional ranks (1 = best): [n, k], [k] -> [n].

    Ma et al. 2025 (arXiv 2501.09732, section 4) with weights 1. It orders candidates as the sum of ranks does (Borda
    1784). Ties share their mean rank, so that the order of the candidates does not matter.
    """
    ranks = torch.empty_like(raw)
    for k, column in enumerate(raw.T):
        _, place, equal = torch.unique(column, return_inverse=True, return_counts=True)  # worst first
        better = len(column) - equal.cumsum(0)
        ranks[:, k] = (better + (equal + 1) / 2)[place]
    return -(ranks @ weights) / (weights.sum() or 1)  # 0 without verifiers


def votes(raw: Tensor, weights: Tensor) -> Tensor:
    """How many of the candidates give the same answer: [n, k], [k] -> [n]. Scores are numbers that stand for answers
    (`Verifier.gives_answers`); a negative one is no answer, and has no vote. Weights do not count, but a verifier of
    weight 0 is not asked."""
    raw = raw[:, weights != 0]
    if not raw.numel():
        return torch.zeros(len(raw), dtype=raw.dtype)
    _, which, counts = torch.unique(raw, dim=0, return_inverse=True, return_counts=True)
    return torch.where((raw < 0).any(-1), 0, counts[which]).to(raw.dtype)


def least(raw: Tensor, weights: Tensor) -> Tensor:
    """min_k sign(w_k) s_k over the verifiers with a weight: [n, k], [k] -> [n]. The size of a weight does not count.

    A candidate is as good as its worst score, so one verifier that is fooled cannot make a winner (the conservative
    ensemble of Coste et al. 2023, arXiv 2310.02743, section 3: worst-case optimisation over reward models).
    """
    counted = weights != 0
    if not counted.any():
        return torch.zeros(len(raw), dtype=raw.dtype)
    return (raw[:, counted] * weights[counted].sign()).amin(-1)


def pareto_order(raw: Tensor, weights: Tensor) -> Tensor:
    """Minus the number of the front, from 0, plus what crowding adds, in [0, 0.5]: [n, k], [k] -> [n].

    The order of NSGA-II (Deb et al. 2002, the crowded-comparison operator of section III-B): by front, and within a
    front the least crowded first, so that its ends come before its middle. The sign of a weight says which way is
    better; its size does not count.
    """
    counted = weights != 0
    points = raw[:, counted] * weights[counted].sign()
    if not points.numel():
        return torch.zeros(len(raw), dtype=raw.dtype)
    front = fronts(points)
    total = -front.double()
    for number in range(int(front.max()) + 1):
        members = front == number
        distance = crowding(points[members])
        total[members] += 0.5 * torch.where(distance.isinf(), 1.0, distance / (1 + distance))
    return total


def standardised(raw: Tensor, columns: Sequence[Column]) -> Tensor:
    """(s - mean) / sd in each column: [n, k] -> [n, k]. Of a calibrated verifier by its own mean and sd, of another by
    those of the candidates; a column in which all are equal is 0."""
    found = torch.zeros_like(raw)
    for k, (column, of) in enumerate(zip(raw.T, columns, strict=True)):
        if of.mean is not None and of.sd is not None:
            found[:, k] = (column - of.mean) / of.sd
        elif (
            len(column) and (spread := column.std(correction=0)) > 1e-12 * column.abs().max()
        ):  # not rounding alone
            found[:, k] = (column - column.mean()) / spread
    return found


def _as_given(raw: Tensor, columns: Sequence[Column]) -> Tensor:
    return raw


def _comparable(raw: Tensor, columns: Sequence[Column]) -> Tensor:
    return raw if _all_probabilities(columns) else standardised(raw, columns)


def _log_probabilities(raw: Tensor, columns: Sequence[Column]) -> Tensor:
    return raw.clamp(LEAST, 1).log()


def _log_odds(raw: Tensor, columns: Sequence[Column]) -> Tensor:
    return torch.logit(raw, LEAST)


def _all_probabilities(columns: Sequence[Column]) -> bool:
    return all(c.probability for c in columns if c.weight)


def _all_calibrated(columns: Sequence[Column]) -> bool:
    return all(c.calibrated for c in columns if c.weight)


def _always(columns: Sequence[Column]) -> bool:
    return True


def _never(columns: Sequence[Column]) -> bool:
    return False


def _without_candidates(columns: Sequence[Column]) -> bool:
    return _all_probabilities(columns) or _all_calibrated(columns)


@dataclass(frozen=True)
class Ensemble:
    """A way to combine scores.

    told: in a line. join: from [n, k] and weights [k] to totals [n]. unit: from raw scores to what is joined.
    pointwise: whether a candidate's total does not depend on the other candidates, by the columns.
    linear: whether the total is a sum of the raw scores, but for scales. signs: weights can be 1, -1 (lower is better)
    and 0, since their sizes would not count. probabilities: only for verifiers that answer probabilities.
    """

    told: str
    join: Callable[[Tensor, Tensor], Tensor]
    unit: Callable[[Tensor, Sequence[Column]], Tensor] = _as_given
    pointwise: Callable[[Sequence[Column]], bool] = _never
    linear: bool = False
    signs: bool = False
    probabilities: bool = False


WEIGHTED, RANK, VOTE, CATEGORY = "weighted", "rank", "vote", "category"
ENSEMBLES: dict[str, Ensemble] = {
    WEIGHTED: Ensemble("sum of weight x score", weighted_sum, pointwise=_always, linear=True),
    RANK: Ensemble("mean rank among the candidates", mean_rank),
    "standardised": Ensemble(
        "sum of weight x (score - mean) / sd", weighted_sum, standardised, _all_calibrated, linear=True
    ),
    "minimum": Ensemble(
        "the worst of the standardised scores, or of the probabilities",
        least,
        _comparable,
        _without_candidates,
        signs=True,
    ),
    "product": Ensemble(
        "product of the probabilities, as a sum of weight x log(p)",
        weighted_sum,
        _log_probabilities,
        _always,
        probabilities=True,
    ),
    "log_odds": Ensemble(
        "product of experts, as a sum of weight x log(p / (1 - p))",
        weighted_sum,
        _log_odds,
        _always,
        probabilities=True,
    ),
    CATEGORY: Ensemble(
        "standardised, with weights by the category of the prompt",
        weighted_sum,
        standardised,
        _all_calibrated,
        linear=True,
    ),
    "pareto": Ensemble("non-dominated sorting, and of a front the least crowded", pareto_order, signs=True),
    VOTE: Ensemble("how many candidates give the same answer", votes),
}
"""product: all of several conditions, if they are independent. log_odds: several opinions of one condition. The product
of experts (Hinton 2002, "Training products of experts by minimizing contrastive divergence", equation 1), normalised
over right and wrong, has the sum of the experts' log-odds as its own; the base rate is the same for all candidates and
left out (genscale.numerics.log_odds has it)."""


def name_of_total(name: str, verifiers: Sequence[str]) -> str:
    """What the total is called. verifiers: the names of those that pick the winner."""
    return VOTES if name == VOTE else "+".join(verifiers)


def joined(name: str, raw: Tensor, columns: Sequence[Column]) -> Tensor:
    """Totals float64 [n] of raw scores [n, verifiers] by the ensemble of this name. columns: of the verifiers."""
    ensemble = ENSEMBLES[name]
    weights = torch.tensor([c.weight for c in columns], dtype=torch.float64)
    return ensemble.join(ensemble.unit(raw, columns), weights)


def pointwise(name: str, columns: Sequence[Column]) -> bool:
    """Whether a candidate's total does not depend on the other candidates."""
    alone = not any(c.relative for c in columns if c.weight)
    return alone and ENSEMBLES[name].pointwise(columns)


def check_columns(name: str, columns: Sequence[Column], verifiers: Sequence[str]) -> None:
    """UsageError: the ensemble is unknown, or these verifiers with these weights do not go with it."""
    if not isinstance(name, str) or name not in ENSEMBLES:
        raise UsageError(f"ensemble '{name}' is unknown: choose one of {', '.join(ENSEMBLES)}.")
    ensemble = ENSEMBLES[name]
    if name == RANK and any(c.weight < 0 for c in columns):
        raise UsageError("a rank ensemble cannot use a negative weight: use the weighted ensemble.")
    if name != WEIGHTED and columns and not any(c.weight for c in columns):
        raise UsageError(f"a {name} ensemble of weights 0 ranks nothing: give one verifier a weight above 0.")
    for verifier, column in zip(verifiers, columns, strict=True):
        if ensemble.signs and column.weight not in (-1, 0, 1):
            raise UsageError(
                f"a {name} ensemble takes no sizes of weights, and verifier '{verifier}' has {column.weight:g}: give "
                "1, -1 (lower is better) or 0 (left out)."
            )
        if ensemble.probabilities and column.weight and not column.probability:
            raise UsageError(
                f"a {name} ensemble multiplies probabilities, and verifier '{verifier}' answers none: calibrate it "
                "with genscale calibrate-verifier, or use another ensemble, such as standardised."
            )
