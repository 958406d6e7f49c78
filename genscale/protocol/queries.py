"""The queries that a sampler may yield, and what answers them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from genscale.diffusion.kernels import Kernel
from genscale.protocol.particles import Particles


@dataclass(frozen=True)
class Solve:
    """Step particles to `until` (None: to the clean end) with a kernel (None: the pipeline's own scheduler).

    Answer: Particles; if they are at `until` already, these. If the budget does not pay for all rows, the answer holds
    the first rows that it pays for; if it pays for none, BudgetExhausted is thrown into the sampler. Rows go to the
    clean end only if the budget also pays for their scores. Under a kernel candidate 0 comes back with a new id: it is
    no longer the pipeline's own result.
    """

    particles: Particles
    until: int | None = None
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Denoise:
    """One model call at `particles.step`, without a step. Answer: Prediction.

    The budget pays for all rows or BudgetExhausted is thrown. One exception: if time runs short before any candidate is
    finished, the answer holds only the first rows, as many as can still be solved to the end.
    `process.move` steps with the prediction at no cost.
    branch: "cond" or "uncond", for the prediction of one branch of classifier-free guidance alone, without a mix.
    """

    particles: Particles
    branch: str | None = None


@dataclass(frozen=True)
class Score:
    """Decode and score: clean latents at the end of the process, elsewhere previews (`particles.x0`).

    Answer: Scores. As for Solve, the answer may hold only the first rows. Clean particles that were scored can win;
    previews cannot.
    """

    particles: Particles


@dataclass(frozen=True)
class Gradient:
    """The gradient of the combined search score of clean estimates with respect to the latents. Answer: Graded.

    The model is called at `particles.step` and again at each step of `calls`, with transitions of `kernel` between the
    calls. The clean estimate of the last call is decoded and scored by the search verifiers, which must be
    differentiable (UsageError otherwise). As for Solve, the answer may hold only the first rows. If the time left
    is only enough to finish a first candidate, BudgetExhausted is thrown; the sampler can still Solve.

    It counts `process.gradient_nfe`. Its scores count as those of previews and are not entered for any candidate.

    calls: later steps of this grid, increasing, at which the model is called; (): one call; all: the unrolled run.
    kernel: with one model call a transition; None: the ODE. From one call to the next it may jump over steps.
    through: "model": the backward pass goes through every call. "decoder": the noise estimate of the (single) call is
        held constant, so that d x0 / d x = 1 / alpha, without a backward pass of the denoiser; not at pure noise.
    noises: [transitions, n, *latent], standard normal noise for the transitions instead of that from the candidates'
        keys. Graded then holds its gradient too.
    each: also give the gradient of every verifier by itself, which takes as many backward passes.
    pull: [n, *latent], a cotangent at the clean estimates instead of the gradient of the scores: the answer is its
        vector-Jacobian product, and nothing is decoded or scored.
    """

    particles: Particles
    calls: tuple[int, ...] = ()
    kernel: Kernel | None = None
    through: str = "model"
    noises: Tensor | None = None
    each: bool = False
    pull: Tensor | None = None


@dataclass(frozen=True)
class Ask:
    """A point at which the search may be given more, or end with what it has. Answer: int, the units that are granted.

    A sampler with `asks = True` yields it before each piece of work that it could end without. Where every prompt has
    its own budget, the answer is `most` at once, and later queries find out what the budget pays for. Where prompts
    share one (`pool`), the answer is 1 to `most` as soon as the engine has decided (genscale.engine.pool), and the
    search may spend what these units cost and no more; what it does not use goes back. If it gets nothing,
    BudgetExhausted is thrown; it may then ask for something cheaper. Before the first Ask `process.nfe_left` is 0.

    nfe, calls: NFE and verifier calls of one unit, such as a candidate from noise to its score; at most, where that is
        not known. ValueError: negative.
    most: units that can be used now, at least 1.
    keep: NFE (and the calls of one score) of earlier grants that the search needs to finish what it has begun; they are
        not taken back.
    """

    nfe: int
    calls: int = 0
    most: int = 1
    keep: int = 0

    def __post_init__(self) -> None:
        if min(self.nfe, self.calls, self.keep) < 0 or self.most < 1:
            raise ValueError(f"{self} asks for less than nothing")


Query = Solve | Denoise | Score | Gradient | Ask


BACKWARD = 2
"""NFE that the backward pass of one row of a model call counts.

The gradients of a layer's inputs and of its weights cost about one forward pass each. Here weights are frozen, so about
one is spent; two are charged, as is usual for training, to cover operations whose backward pass is slower
(benchmarks/gradient_memory.py measures it). A call that checkpointing recomputes is a forward pass and counts one.
"""
