"""Options of gradient ascent on the initial noise, and the methods that its presets override."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.option_checks import check_options
from genscale.diffusion.kernels import Ddim, Kernel
from genscale.errors import UsageError
from genscale.numerics.optimisers import Optimiser
from genscale.protocol.answers import Graded, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate
from genscale.protocol.queries import Query, Score, Solve


@dataclass(frozen=True)
class AscentOptions:
    """The fields that all presets of gradient ascent share; each preset explains its own defaults.

    iterations: number of gradient steps from each start. None: as many as the budget pays for. If only a time limit
    ends the search, None is the published number, and the search then restarts from fresh noises while there is time.
    starts: number of noises that are optimised together, which are the pipeline's own noise and fresh ones. Fewer if
    the budget does not pay for all.
    warmup: fraction of an NFE or verifier-call budget, in [0, 1), that is first spent on plain candidates. The best of
    them become the starts, and all of them remain candidates for the result. If only a time limit or a stop rule ends
    the search, the warm-up is 8 candidates; without any limit there is none. Our default is 0.7, because one step from
    a good noise gains more than many from a poor one. The papers have no warm-up (0).
    trials: number of step sizes that are tried at each step, by plain runs: 1, 1/4, 1/16, ... of the step. The best one
    is taken if it improves the objective. Later step sizes are multiplied by the last one that improved, and a start is
    given up after 2 steps without an improvement. Our default is 3, because a plain run costs a fourth of a gradient
    and rewards are not smooth. 0, as in the papers, takes every full step.
    reg: weight of the norm penalty.
    """

    iterations: int | None = None
    starts: int = 1
    warmup: float = 0.7
    trials: int = 3
    reg: float = 0.01

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule", "gradient"})
    size_option: ClassVar[str] = "starts"
    PUBLISHED: ClassVar[int] = 50
    each: ClassVar[bool] = False  # whether the gradient of every verifier is needed separately
    kernel: ClassVar[Ddim | None] = None  # kernel of the transitions whose noises are also optimised

    def __post_init__(self) -> None:
        counts = ("iterations", "starts", "opt_steps", "finals", "batch", "history")
        check_options(self, trials=0, **{name: 1 for name in counts if hasattr(self, name)})
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup={self.warmup} must be a share of the budget in [0, 1).")
        for name in ("reg", "lr", "clip", "momentum", "mu", "first"):
            value = getattr(self, name, None)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name}={value} must be a number of 0 or more.")
        if getattr(self, "momentum", 0) >= 1:
            raise UsageError(f"momentum={self.momentum} never forgets a step: give a share in [0, 1).")  # type: ignore[attr-defined]

    # ---------------------------------------------------------------- overridden by presets

    @property
    def tries(self) -> int:
        return self.trials

    @property
    def share(self) -> float:
        """The fraction of the budget for the warm-up, in [0, 1)."""
        return self.warmup

    def optimiser(self) -> Optimiser:
        """A new optimiser, one for each start."""
        raise NotImplementedError

    def merit(self, scores: Scores, process: Process) -> Tensor:
        """The objective that is maximised, float64 [n]."""
        return scores.total

    def slope(self, graded: Graded, process: Process) -> Tensor:
        """The gradient of the objective by the points, [n, noises, *latent]."""
        return of_points(graded.gradient, graded.noises, process)

    def turn_nfe(self, process: Process) -> int:
        """NFE of one gradient step for one start."""
        return process.gradient_nfe(0, self.calls(process), each=self.each)

    def turn_calls(self, process: Process, shows: bool) -> int:
        """Verifier calls of one gradient step for one start. shows: whether the clean estimate of the gradient is also
        scored as a finished image."""
        return process.calls(1, int(shows))

    def ends(self, process: Process, starts: int) -> int:
        """The number of starts that are run to the end after the last gradient step."""
        return starts

    def run(
        self, process: Process, candidates: Sequence[Candidate], points: Tensor, rest: Kernel | None
    ) -> Generator[Query, Any, Scores]:
        """Run points [n, noises, *latent] to the end and score them. Only the first rows are returned if the budget
        ends."""
        finished = yield Solve(process.start(candidates, points[:, 0]), None, rest)
        scores: Scores = yield Score(finished)
        return scores

    # ---------------------------------------------------------------- the search

    def grid(self, process: Process) -> Process:
        return process.regridded()

    def calls(self, process: Process) -> tuple[int, ...]:
        """Steps of the model calls that are differentiated, without the first one at pure noise."""
        steps, some = process.model_steps, getattr(self, "opt_steps", None)
        k = steps if some is None else min(some, steps)
        return tuple(i * steps // k for i in range(1, k))

    def whole(self, process: Process) -> bool:
        """Whether all model calls are differentiated, so that the clean estimate is the finished image."""
        return len(self.calls(process)) + 1 == process.model_steps


def of_points(gradient: Tensor, noises: Tensor | None, process: Process) -> Tensor:
    """Gradients by the points [n, noises, *latent], on the CPU, from the gradients by the initial latents [n, *latent]
    and by the injected noises [transitions, n, *latent]."""
    initial = process.to_noise(gradient)[:, None]
    return initial if noises is None else torch.cat([initial, noises.transpose(0, 1).cpu().float()], 1)
