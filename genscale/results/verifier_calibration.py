"""What `genscale calibrate-verifier` found: from the scores of some verifiers to P(the finished candidate is right).

For finished candidates, and for previews at each share of the run at which they were scored, there is one level: a
curve for each verifier (genscale.numerics.probability_curve), whose probabilities are combined in log-odds
(genscale.numerics.log_odds). The label is always that of the finished candidate.

The weights of the combination, and the table of probabilities that samplers and diagrams use, come from curves that
were fitted without the candidate's own prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from genscale.errors import UsageError
from genscale.numerics.log_odds import LogOdds, combination
from genscale.numerics.probability_curve import (
    FITS,
    Array,
    ProbabilityCurve,
    auc,
    base_rate,
    calibration_error,
    choose,
    folds,
    log_loss,
    out_of_fold,
    reliability,
)
from genscale.protocol.calibration import Calibration

FEWEST_PROMPTS = 4  # ours: with fewer there is nothing to hold out


@dataclass(frozen=True)
class Level:
    """Scores [n, K] -> P(right) [n]. progress: share of the run's model calls done; 1: of finished candidates."""

    progress: float
    curves: tuple[ProbabilityCurve, ...]
    combination: LogOdds

    def __call__(self, scores: Array) -> Array:
        return self.combination(_each(self.curves, scores))


def _each(curves: Sequence[ProbabilityCurve], scores: Array) -> Array:
    return np.stack([curve(scores[:, k]) for k, curve in enumerate(curves)], axis=1)


def fit_level(progress: float, scores: Array, right: Array, prompts: NDArray[np.int64]) -> Level:
    """The level of scores [n, K] with labels [n] in [0, 1] of candidates of numbered prompts [n]."""
    fold = folds(right, prompts)
    curves = tuple(choose(column, right, fold) for column in scores.T)
    held = [
        out_of_fold(FITS[c.kind], column, right, fold) for c, column in zip(curves, scores.T, strict=True)
    ]
    return Level(progress, curves, combination(np.stack(held, axis=1), right, base_rate(right)))


def held_out_probabilities(scores: Array, right: Array, prompts: NDArray[np.int64]) -> Array:
    """P [n] by levels that were fitted to the other folds of prompts."""

    def fit(some: Array, labels: Array) -> Callable[[Array], Array]:
        level = fit_level(1.0, some[:, :-1], labels, some[:, -1].astype(np.int64))
        return lambda others: level(others[:, :-1])

    return out_of_fold(fit, np.column_stack([scores, prompts]), right, folds(right, prompts))


@dataclass(frozen=True)
class Member:
    """A verifier that was calibrated: a registered name with options, as JSON.

    references: its scores of the images of `Reference`. spread: standard deviation of its scores of finished
        candidates, the unit in which a change of them is measured.
    """

    verifier: str
    options: Mapping[str, Any]
    references: tuple[float, ...]
    spread: float

    @staticmethod
    def unscored(name: str, options: Mapping[str, Any]) -> Member:
        """One that has scored nothing yet, with its options as JSON has them."""
        return Member(name, {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}, (), 0.0)


@dataclass(frozen=True)
class Reference:
    """Images that tell whether the verifiers are still those that were calibrated.

    digest: of their file. prompts: one text for each.
    """

    digest: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """Labelled candidates. K verifiers, k previews of each of n candidates.

    progress: [k] increasing, in (0, 1). previews: [k, n, K]; finals: [n, K]; right: [n] in [0, 1]; prompts: [n],
    numbers of `texts`. steps: model calls of a run.
    """

    progress: tuple[float, ...]
    previews: Array
    finals: Array
    right: Array
    prompts: NDArray[np.int64]
    texts: tuple[str, ...]
    steps: int

    def check(self) -> None:
        """UsageError where nothing can be learned from them."""
        n, wanted = len(self.right), f"at least {FEWEST_PROMPTS} prompts"
        if len(np.unique(self.prompts)) < FEWEST_PROMPTS:
            found = len(np.unique(self.prompts))
            raise UsageError(
                f"a calibration needs labelled candidates of {wanted}, some to be held out, not {found}."
            )
        for what, count in (("right", self.right.sum()), ("wrong", n - self.right.sum())):
            if count == 0:
                raise UsageError(
                    f"none of the {n} labelled candidates is {what}: label more of them, of easier and harder prompts."
                )


@dataclass(frozen=True)
class VerifierCalibration:
    """The verifiers, their levels by progress (the last is of finished candidates), and the table of all candidates.

    frames: frames of a video that an image verifier scores; None: images were calibrated. texts: the prompts.
    about: what was measured, for people.
    """

    members: tuple[Member, ...]
    levels: tuple[Level, ...]
    table: Calibration
    texts: tuple[str, ...]
    reference: Reference
    frames: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        given: Labelled,
        members: tuple[Member, ...],
        reference: Reference,
        frames: int | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> VerifierCalibration:
        """Fit everything. UsageError: there are too few labels."""
        given.check()
        places = [*zip(given.progress, given.previews, strict=True), (1.0, given.finals)]
        levels = tuple(fit_level(at, scores, given.right, given.prompts) for at, scores in places)
        held = [held_out_probabilities(scores, given.right, given.prompts) for _, scores in places]
        previews = np.stack(held[:-1], axis=1) if held[:-1] else np.zeros((len(given.right), 0))
        table = Calibration(
            given.progress,
            torch.from_numpy(previews),
            torch.from_numpy(held[-1]),
            torch.from_numpy(given.right),
            torch.from_numpy(given.prompts),
            given.steps,
        )
        return VerifierCalibration(members, levels, table, given.texts, reference, frames, about or {})

    @property
    def base(self) -> float:
        """The base rate: P(right) where nothing has been seen."""
        return self.levels[-1].combination.base

    def probabilities(self, scores: Array, progress: Sequence[float]) -> Array:
        """P(right) [n] of scores [n, K] after shares of the run [n] in [0, 1].

        Between two calibrated shares log-odds are interpolated; before the first one the base rate holds.
        """
        at = np.asarray(progress, dtype=np.float64)
        known = np.array([level.progress for level in self.levels])
        odds = np.stack([logit(level(scores)) for level in self.levels])  # [levels, n]
        found = np.full(len(at), logit(self.base))
        for row, share in enumerate(at):
            if share >= known[0]:
                found[row] = np.interp(share, known, odds[:, row])
        p: Array = expit(found)
        return p

    def fraction(self, progress: float) -> float:
        """The fraction of the run (genscale.algorithms.preview_steps) of previews with this progress: their model call
        counts in the progress, and not in the fraction."""
        return max(progress - 1 / self.table.steps, 0.0)

    def quality(self) -> list[dict[str, Any]]:
        """For each level, on prompts that were held out: progress, auc, log_loss, and calibration error (ece)."""
        right = self.table.right.numpy()
        columns = [*self.table.previews.numpy().T, self.table.finals.numpy()]
        return [
            {
                "progress": level.progress,
                "auc": auc(p, right),
                "log_loss": log_loss(p, right),
                "ece": calibration_error(reliability(p, right)),
                "curves": [curve.kind for curve in level.curves],
                "weights": list(level.combination.weights),
            }
            for level, p in zip(self.levels, columns, strict=True)
        ]

    def text(self) -> str:
        """As JSON, from which `verifier_calibration_file.read` makes an equal one."""
        levels = [
            {
                "progress": level.progress,
                "curves": [
                    {"kind": c.kind, "scores": list(c.scores), "probabilities": list(c.probabilities)}
                    for c in level.curves
                ],
                "base": level.combination.base,
                "bias": level.combination.bias,
                "weights": list(level.combination.weights),
            }
            for level in self.levels
        ]
        table = {
            name: getattr(self.table, name).tolist() for name in ("previews", "finals", "right", "prompts")
        }
        data = {
            "calibrates": "verifiers",
            "members": [vars(m) | {"references": list(m.references)} for m in self.members],
            "frames": self.frames,
            "steps": self.table.steps,
            "levels": levels,
            "reference": {"digest": self.reference.digest, "prompts": list(self.reference.prompts)},
            "prompts": list(self.texts),
            "table": table,
            "about": dict(self.about),
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
