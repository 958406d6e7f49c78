"""Steps with a kernel, one model call at a time, as functions of particles and noise levels.

Most kernels need one model call for a transition. GLASS needs several: particles then stay at their step, `inner`
counts the calls that were made, and the memory holds the inner latents "bar".
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from genscale.diffusion.kernels import Glass, Kernel, Transition
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.protocol.answers import Prediction
from genscale.protocol.particles import Memory, Particles


def transition(
    levels: NoiseSchedule, particles: Particles, prediction: Prediction, kernel: Kernel, until: int
) -> Transition:
    """The Gaussian transition to step `until`; from here on the state has the prediction's dtype, float32."""
    x = particles.x.to(prediction.x0.dtype)
    start, stop = levels.level(particles.step), levels.level(until)
    return kernel.transition(x, prediction.x0, prediction.eps, start, stop)


def jump(
    particles: Particles, made: Transition, until: int, noise: Callable[[], Tensor], x0: Tensor | None = None
) -> Particles:
    """The particles after a transition to step `until`. noise: [n, *latent], asked for where it has a std above 0."""
    x = made.mean if made.std == 0 else made.sample(noise())
    caches = particles.stepped_caches if until == particles.step + 1 else ()
    return Particles(x, until, particles.candidates, None, x0, caches=caches)


def step(
    levels: NoiseSchedule,
    particles: Particles,
    prediction: Prediction,
    kernel: Kernel,
    noise: Callable[[], Tensor],
    preview: bool,
) -> Particles:
    """The particles after one model call of a transition. preview: keep the clean estimate.

    noise: gives the noise of the transition [n, *latent].
    """
    at = particles.step
    start, stop, x0 = levels.level(at), levels.level(at + 1), prediction.x0
    shown = x0 if preview else None
    if not isinstance(kernel, Glass) or kernel.calls(start) == 1:
        made = transition(levels, particles, prediction, kernel, at + 1)
        return jump(particles, made, at + 1, noise, shown)
    x = particles.x.to(x0.dtype)
    if particles.inner == 0:
        bar = kernel.begin(x, noise(), start, stop)
    else:
        assert particles.memory is not None
        bar = particles.memory.rows["bar"]
    bar = kernel.advance(particles.inner, x, bar, x0, start, stop)
    if particles.inner + 1 == kernel.calls(start):
        return Particles(bar, at + 1, particles.candidates, None, shown, caches=particles.stepped_caches)
    memory, inner = Memory({"bar": bar}, {}), particles.inner + 1
    return Particles(x, at, particles.candidates, memory, shown, inner, particles.caches)


def inner_input(
    levels: NoiseSchedule, particles: Particles, kernel: Kernel | None
) -> tuple[NoiseLevel, Tensor]:
    """The noise level of the next inner model call, and the latents [n, *latent] that it gets."""
    assert isinstance(kernel, Glass)
    assert particles.memory is not None
    start, stop = (levels.level(particles.step + i) for i in (0, 1))
    observed, kappa = kernel.observation(
        particles.inner, particles.x, particles.memory.rows["bar"], start, stop
    )
    level = levels.between(kappa / (1 + kappa))
    return level, level.alpha * observed
