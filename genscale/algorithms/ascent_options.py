"""Options of the gradient ascents on the initial noise, and what their presets differ in."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.option_checks import at_least
from genscale.diffusion.kernels import Ddim, Kernel
from genscale.errors import UsageError
from genscale.numerics.optimisers import Optimiser
from genscale.protocol.answers import Graded, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate
from genscale.protocol.queries import Query, Score, Solve


@dataclass(frozen=True)
class AscentOptions:
    """The fields that the gradient ascents share; each preset explains its own defaults.

    iterations: gradient steps from each start. None: as many as the budget pays for; where only time ends the search,
    the published number, and then again from fresh noises while there is time.
    starts: noises that are optimised side by side, the pipeline's own and fresh ones; fewer where the budget pays for
    fewer.
    warmup: share of an NFE or call budget that is first spent on plain candidates; the best of them are the starts, and
    all of them stay candidates for the result (8 where only time or a stop rule ends the search, none where nothing
    does). Ours, 0.7: the first step from a good noise is worth more than many from a poor one. 0 is published.
    trials: how many shares of each step, 1, 1/4, 1/16, ..., are tried by plain runs; the best one is taken if it
    improves. Later shares are scaled by the last that improved, and a start is given up after 2 steps without one.
    Ours, 3: a run costs a fourth of a gradient, and rewards are rugged. 0, published, takes every step as it is.
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
    each: ClassVar[bool] = False  # ask for every verifier's gradient by itself
    kernel: ClassVar[Ddim | None] = None  # of the transitions whose noises are optimised, too

    def __post_init__(self) -> None:
        for name in ("iterations", "starts", "opt_steps", "finals", "batch", "history"):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} must be at least 1.")
        at_least(self, trials=0)
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup={self.warmup} must be a share of the budget in [0, 1).")
        for name in ("reg", "lr", "clip", "momentum", "mu", "first"):
            value = getattr(self, name, None)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name}={value} must be a number of 0 or more.")

    # ---------------------------------------------------------------- what presets differ in

    @property
    def tries(self) -> int:
        return self.trials

    @property
    def share(self) -> float:
        """Of the budget, for the warm-up."""
        return self.warmup

    def optimiser(self) -> Optimiser:
        """A new optimiser, one for each start."""
        raise NotImplementedError

    def merit(self, scores: Scores, process: Process) -> Tensor:
        """The objective that is maximised, float64 [n]."""
        return scores.total

    def slope(self, graded: Graded, process: Process) -> Tensor:
        """Its gradient [n, noises, *latent]."""
        return of_points(graded.gradient, graded.noises, process)

    def turn_nfe(self, process: Process) -> int:
        """NFE of one gradient step of one start."""
        return process.gradient_nfe(0, self.calls(process), each=self.each)

    def turn_calls(self, process: Process, shows: bool) -> int:
        """Verifier calls of the same. shows: whether the gradient's clean estimate is scored as a finished image."""
        return process.calls(1, int(shows))

    def ends(self, process: Process, starts: int) -> int:
        """How many of the starts are run to the end after the last gradient step."""
        return starts

    def run(
        self, process: Process, candidates: Sequence[Candidate], points: Tensor, rest: Kernel | None
    ) -> Generator[Query, Any, Scores]:
        """Run points [n, noises, *latent] to the end and score them; only the first rows where the budget ends."""
        finished = yield Solve(process.start(candidates, points[:, 0]), None, rest)
        scores: Scores = yield Score(finished)
        return scores

    # ---------------------------------------------------------------- the search

    def grid(self, process: Process) -> Process:
        return process.regridded()

    def calls(self, process: Process) -> tuple[int, ...]:
        """Steps of the model calls that a gradient goes through, after the first one at pure noise."""
        steps, some = process.model_steps, getattr(self, "opt_steps", None)
        k = steps if some is None else min(some, steps)
        return tuple(i * steps // k for i in range(1, k))

    def whole(self, process: Process) -> bool:
        """Whether a gradient goes through all model calls, so that its clean estimate is the finished image."""
        return len(self.calls(process)) + 1 == process.model_steps


def of_points(gradient: Tensor, noises: Tensor | None, process: Process) -> Tensor:
    """Gradients [n, noises, *latent] by points, on the CPU, from those by initial latents [n, *latent] and by the
    injected noises [transitions, n, *latent]."""
    initial = process.to_noise(gradient)[:, None]
    return initial if noises is None else torch.cat([initial, noises.transpose(0, 1).cpu().float()], 1)
