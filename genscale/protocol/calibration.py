"""What is known of a verifier that answers probabilities: its answers on labelled candidates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
