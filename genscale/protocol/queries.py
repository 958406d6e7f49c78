"""What a sampler may ask of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from genscale.diffusion.kernels import Kernel
from genscale.protocol.particles import Particles


@dataclass(frozen=True)
class Solve:
    """Carry particles to step `until` (None: to the clean end) with a kernel (None: the pipeline's own scheduler).

    Answer: Particles; those that are there already come back as they are. When the budget does not reach for
    all rows, the answer holds the first rows that it reaches for; when it reaches for none, BudgetExhausted
    is thrown into the sampler. A row goes to the clean end only where its score can be paid, too.
    """

    particles: Particles
    until: int | None = None
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Denoise:
    """One model call at `particles.step`, without stepping. Answer: Prediction.

    It goes whole, or BudgetExhausted is thrown; only where time runs short before anything was finished, the answer
    holds just the first rows, which can still be brought to the end.
    The prediction is the first of the transition that begins there: `process.move` goes on with it at no cost.
    branch: "cond" or "uncond" for the prediction of one branch of classifier-free guidance alone, without a mix.
    """

    particles: Particles
    branch: str | None = None


@dataclass(frozen=True)
class Score:
    """Decode and judge: clean latents at the end of the process, else the clean estimates `particles.x0`.

    Answer: Scores. As for Solve, the answer may hold only the first rows. Clean particles that were scored
    take part in the final choice; previews never do.
    """

    particles: Particles


@dataclass(frozen=True)
class Gradient:
    """How the combined search score of clean estimates changes with the latents. Answer: Graded.

    The model is called at `particles.step`, and again at each step of `calls` (increasing, of this grid), stepping from
    one to the next with `kernel`; the clean estimate of the last call is decoded and scored by the search verifiers,
    which must be differentiable (UsageError else). As for Solve, the answer may hold only the first rows.
    BudgetExhausted is thrown before anything was finished, too, where time is left only for the
    way to the clean end: Solve then.

    Its price is `process.gradient_nfe`; scores count as those of previews, and none becomes a candidate's.

    calls: further steps at which the model is called; () is one call, all later ones unroll the whole run.
    kernel: of one model call a transition, the ode where None; from one call to the next it may jump over steps.
    through: "model", back through every call; "decoder", with the noise of the (single) call held constant, so that
        d x0 / d x = 1 / alpha and nothing goes back through the denoiser. There is none at pure noise, alpha = 0.
    noises: standard normal noise [transitions, n, *latent] of the kernel's transitions, instead of that of the
        candidates' keys; its gradient is answered, too.
    each: answer the gradient of every verifier by itself, too: as many backwards as there are search verifiers.
    pull: [n, *latent], what is pulled back from the clean estimates instead of the scores' gradient: then nothing is
        decoded or scored.
    """

    particles: Particles
    calls: tuple[int, ...] = ()
    kernel: Kernel | None = None
    through: str = "model"
    noises: Tensor | None = None
    each: bool = False
    pull: Tensor | None = None


Query = Solve | Denoise | Score | Gradient


BACKWARD = 2
"""NFE that going back through one row of a model call counts.

The gradients of a layer's inputs and of its weights cost one forward each; with frozen weights only the first is left,
so that about one is spent. Two is what is charged, as it is for training, and covers kernels that are slower backwards
(benchmarks/gradient_memory.py measures it). What a checkpoint computes again is a forward, and counts as one.
"""
