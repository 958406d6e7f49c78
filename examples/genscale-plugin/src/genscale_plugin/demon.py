"""Sampling demons (Yeh et al. 2025, arXiv 2410.05760): the noise of each step is a weighted sum of tried noises."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

import genscale
from genscale import Denoise, Key, Particles, Process, Query, Score, Scores, Solve, UsageError


@dataclass(frozen=True)
class Demon:
    """At every stochastic step try K noises, and step with sum_k tanh((r_k - mean) / (temperature std)) z_k.

    The sum is scaled to the length sqrt(d) of a noise of d numbers; mean and std are those of the K scores.

    noises: K, at least 2. temperature: the smaller, the more a noise counts by the sign of r_k - mean alone. kernel:
    the stochastic step; ddim(1) is ancestral sampling.

    Differences: a tried state is scored by its clean estimate (one model call), not by solving the ODE to the end. The
    pipeline's own image is finished first, as candidate 0, and budget that is left over goes to plain candidates.

    Cost in NFE: 2 f(0, T) + K f(1, T), f(a, b) being that of one candidate from step a to b; flow models K f(2, T).
    """

    noises: int = 8
    temperature: float = 1.0
    kernel: str = "ddim(1)"

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    size_option: ClassVar[str] = "noises"  # what candidates=N sets
    bibtex: ClassVar[str] = """@inproceedings{yeh2025demon,
  title = {Training-Free Diffusion Model Alignment with Sampling Demons},
  author = {Yeh, Po-Hung and Lee, Kuang-Huei and Chen, Jun-Cheng},
  year = {2025},
  eprint = {2410.05760}
}"""

    def __post_init__(self) -> None:
        if self.noises < 2 or not self.temperature > 0:
            raise UsageError(
                f"noises={self.noises} must be at least 2, temperature={self.temperature} above 0."
            )

    def grid(self, process: Process) -> Process:
        return process.regridded()  # steps on which kernels can step, also of second-order schedulers

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        kernel, ids = genscale.parse_kernel(self.kernel), 2
        ode = None if process.own_steps else genscale.parse_kernel("ode")
        yield Score((yield Solve(process.start([genscale.draw(key, 0)]), kernel=ode)))
        x = process.start([genscale.draw(key, 1)])
        while x.step < process.model_steps - 1 and self._pays_for(process, x.step):
            transition = process.transition(x, (yield Denoise(x)), kernel)
            if transition.std == 0:
                x = process.take(x, transition)
                continue
            tried = [genscale.branch(key, ids + k, x.candidates[0], x.step) for k in range(self.noises)]
            ids += self.noises
            noises = torch.stack([process.injected(candidate, x.step) for candidate in tried])
            states = Particles(transition.sample(noises), x.step + 1, tuple(tried))
            scores = yield Score(replace(states, x0=(yield Denoise(states)).x0))
            x = Particles(transition.sample(self._combined(scores, noises)), x.step + 1, x.candidates)
        yield Score((yield Solve(x, kernel=kernel)))
        yield from genscale.spend_leftover_budget(process, key, ids)

    def _pays_for(self, process: Process, step: int) -> bool:
        """Whether another step with K tries leaves enough to finish the chain and score it."""
        left, calls = process.nfe_left, process.calls_left
        wanted = process.nfe(step) + self.noises * process.nfe(step + 1, step + 2)
        return (left is None or wanted <= left) and (calls is None or process.calls(self.noises, 1) <= calls)

    def _combined(self, scores: Scores, noises: Tensor) -> Tensor:
        """The step's noise [1, *latent] from noises [K, *latent]; the first of them where all scores are equal."""
        total = scores.total
        if len(total) < 2 or total.std() == 0:
            return noises[:1]
        weights = torch.tanh((total - total.mean()) / (self.temperature * total.std())).to(noises)
        noise = torch.tensordot(weights, noises[: len(total)], dims=1)[None]
        return noise * (noise.numel() ** 0.5 / noise.norm())

    def cost(self, process: Process) -> int:
        first = 1 if process.schedule.level(0).alpha > 0 else 2  # from pure noise no kernel is stochastic
        return 2 * process.nfe() + self.noises * process.nfe(first)
