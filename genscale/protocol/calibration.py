"""What is known of a verifier: the scale of its scores, and of one that answers probabilities its answers on labelled
candidates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ScoreScale:
    """The scale of a verifier's scores, measured on candidates of many prompts.

    mean, sd: of the scores. noise_sd: of one candidate's score under changes that do not matter, such as a crop by a
    few pixels or a JPEG file; None where it was not measured.
    """

    mean: float
    sd: float
    noise_sd: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.sd < math.inf):
            raise ValueError(f"no scale of scores: mean {self.mean}, sd {self.sd}")
        if self.noise_sd is not None and not 0 <= self.noise_sd < math.inf:
            raise ValueError(f"no noise of scores: sd {self.noise_sd}")


def scale_of(verifier: Any) -> ScoreScale | None:
    """The scale that a verifier says: its `score_scale`, or a `calibration` with mean and sd; None without."""
    for name in ("score_scale", "calibration"):
        found = getattr(verifier, name, None)
        mean, sd = getattr(found, "mean", None), getattr(found, "sd", None)
        if isinstance(mean, Real) and isinstance(sd, Real):
            noise = getattr(found, "noise_sd", None)
            return ScoreScale(float(mean), float(sd), None if noise is None else float(noise))
    return None


@dataclass(frozen=True)
class Calibration:
    """The answers of a verifier about n labelled candidates, at previews and at the end.

    For samplers that choose thresholds. A candidate's probabilities come from curves that were fitted without its own
    prompt (cross-validation), so that the table is as the verifier behaves on new prompts.

    progress: increasing shares of a run's model calls, in (0, 1), after which the previews were scored; k of them.
    previews: [n, k], P(the finished candidate is right) by each preview.
    finals: [n], P(right) by the finished candidate.
    right: [n], the labels in [0, 1].
    prompts: [n], the number of each candidate's prompt.
    steps: model calls of a run.
    """

    progress: tuple[float, ...]
    previews: Tensor
    finals: Tensor
    right: Tensor
    prompts: Tensor
    steps: int

    def __post_init__(self) -> None:
        n, k = len(self.finals), len(self.progress)
        shapes = [tuple(t.shape) for t in (self.previews, self.finals, self.right, self.prompts)]
        if shapes != [(n, k), (n,), (n,), (n,)]:
            raise ValueError(f"a calibration of {n} candidates and {k} previews holds tensors of {shapes}")
