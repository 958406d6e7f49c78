"""The reverse process of one prompt, made of plain tensors and a solver (implements `protocol.Process`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from genscale.errors import Refusal
from genscale.key import Key
from genscale.particles import OWN, Candidate, Particles
from genscale.prediction import View
from genscale.protocol import Prediction, Solver
from genscale.schedule import NoiseSchedule


@dataclass(frozen=True)
class Prior:
    """Initial latents as an affine function of standard normal noise: x = offset + scale * noise.

    Text-to-image pipelines have offset 0 and a constant scale; image-to-image ones add the encoded
    picture, image-to-video ones hold some frames fixed (scale 0 there). own: the pipeline's own latents.
    """

    offset: Tensor  # [*latent]
    scale: Tensor  # [*latent]
    own: Tensor  # [*latent], in the pipeline's dtype, on its device
    refusal: str | None = None  # why no other initial latents can be made

    def own_noise(self) -> Tensor:
        """The noise behind the own latents [*latent], float32, on the CPU; 0 where it has no influence."""
        scale, offset = self.scale.float().cpu(), self.offset.float().cpu()
        return torch.where(scale == 0, 0.0, (self.own.float().cpu() - offset) / scale)

    def latents(self, noise: Tensor) -> Tensor:
        """[n, *latent] noise on the CPU to initial latents in the pipeline's dtype, on its device."""
        x = self.offset.cpu() + self.scale.cpu() * noise.to(self.scale.dtype)
        return x.to(self.own.device, self.own.dtype)


@dataclass(frozen=True)
class PromptProcess:
    """What a sampler sees of one prompt.

    evaluations: NFE of one row at each step [steps]. view: noise levels and meaning of the model output; a
    string instead says why they cannot be read. own_draw: the noise that the pipeline's own run would use
    inside solver steps, (step, draw) -> [*latent]. model_calls: index of a last step without a model call,
    which only takes over what the pipeline's loop made of the latents. restarts: steps at which a solve may
    begin (a second-order scheduler's step has two model calls, and none may begin between them); empty: all.
    open_ended, left: what the budget says; left gives (nfe_left, calls_left). judges: verifiers of a preview
    and of a finished candidate.
    """

    evaluations: tuple[int, ...]
    prior: Prior
    solver: Solver
    view: View | str
    own_draw: Callable[[int, int], Tensor] | None = None
    model_calls: int | None = None
    restarts: tuple[int, ...] = ()
    open_ended: bool = False
    left: Callable[[], tuple[int | None, int | None]] = field(default=lambda: (None, None))
    judges: tuple[int, int] = (0, 0)

    @property
    def steps(self) -> int:
        return len(self.evaluations)

    @property
    def schedule(self) -> NoiseSchedule:
        return self._view().schedule

    @property
    def nfe_left(self) -> int | None:
        return self.left()[0]

    @property
    def calls_left(self) -> int | None:
        return self.left()[1]

    def _view(self) -> View:
        if isinstance(self.view, str):
            raise Refusal(self.view)
        return self.view

    def nfe(self, start: int = 0, stop: int | None = None) -> int:
        return sum(self.evaluations[start:stop])

    def calls(self, previews: int, finals: int) -> int:
        return self.judges[0] * previews + self.judges[1] * finals

    def noise(self, candidate: Candidate) -> Tensor:
        if candidate.id == OWN:
            return self.prior.own_noise()
        return Key(candidate.key).fold("start").normal(tuple(self.prior.own.shape))

    def start(self, candidates: Sequence[Candidate], noise: Tensor | None = None) -> Particles:
        if self.prior.refusal and any(c.id != OWN for c in candidates):
            raise Refusal(self.prior.refusal)
        rows = []
        for i, c in enumerate(candidates):
            if c.id == OWN and noise is None:
                rows.append(self.prior.own)
            else:
                rows.append(self.prior.latents(self.noise(c) if noise is None else noise[i]))
        return Particles(torch.stack(rows), 0, tuple(candidates))

    def nearest(self, time: float) -> int:
        times = self.schedule.linear_time
        allowed = self.restarts or range(self.model_calls or self.steps)
        return min(allowed, key=lambda i: abs(float(times[i]) - time))

    def renoise(self, particles: Particles, step: int, candidates: Sequence[Candidate]) -> Particles:
        noise = torch.stack(
            [Key(c.key).fold("renoise", step).normal(tuple(self.prior.own.shape)) for c in candidates]
        )
        x = self.schedule.renoise(particles.x.float(), particles.step, step, noise.to(particles.x.device)).to(
            particles.x.dtype
        )
        return Particles(x, step, tuple(replace(c, step=step) for c in candidates))

    def advance(self, particles: Particles, output: Tensor, x: Tensor, preview: bool) -> Particles:
        """One step of the pipeline's own scheduler after a model call that saw latents `x`.

        preview: also keep the clean estimate, where the scheduler can be read.
        """
        if particles.step == self.model_calls:
            return Particles(x, particles.step + 1, particles.candidates, None, particles.x0)
        seen = replace(particles, x=x)

        def draw(j: int) -> Tensor:
            return torch.stack([self._step_noise(c, particles.step, j) for c in particles.candidates])

        new, memory = self.solver.step(seen, output, draw)
        x0 = None
        if preview and isinstance(self.view, View):
            x0 = self.view.clean_and_noise(particles.step, output, x)[0]
        return Particles(new, particles.step + 1, particles.candidates, memory, x0)

    def _step_noise(self, candidate: Candidate, step: int, draw: int) -> Tensor:
        if candidate.id == OWN and self.own_draw is not None:
            return self.own_draw(step, draw)
        return Key(candidate.key).fold("step", step, draw).normal(tuple(self.prior.own.shape))

    def predict(self, particles: Particles, output: Tensor, x: Tensor) -> Prediction:
        return Prediction(*self._view().clean_and_noise(particles.step, output, x))
