"""What a Gradient may ask, and which of them go in one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from itertools import pairwise

from torch import Tensor

from genscale.diffusion.kernels import Ddim, Glass, Kernel, Own
from genscale.engine.process import PromptProcess
from genscale.protocol.queries import Gradient

ODE = Ddim(0.0)


def check_gradient(ask: Gradient, process: PromptProcess) -> None:
    """Mistakes in a sampler. ValueError: steps out of order, tensors of the wrong shape, what does not go together."""
    particles, calls = ask.particles, ask.calls
    steps, shape = (particles.step, *calls), tuple(particles.x.shape)
    if any(b <= a for a, b in pairwise(steps)) or steps[-1] >= process.model_steps:
        raise ValueError(
            f"a gradient's model calls {steps} must increase and lie before step {process.model_steps}"
        )
    if isinstance(ask.kernel, Own) or (isinstance(ask.kernel, Glass) and ask.kernel.inner > 1):
        raise ValueError(f"a gradient steps with a kernel of one model call, not {ask.kernel}")
    if ask.through not in ("model", "decoder"):
        raise ValueError(f"a gradient goes through 'model' or 'decoder', not '{ask.through}'")
    if ask.through == "decoder":
        if calls or ask.noises is not None:
            raise ValueError("a gradient through the decoder is of one model call, without noises")
        if process.schedule.level(particles.step).alpha == 0:
            raise ValueError("at pure noise no gradient leads through the decoder alone: ask at a later step")
    if ask.noises is not None and tuple(ask.noises.shape) != (len(calls), *shape):
        raise ValueError(f"a gradient's noises must be {[len(calls), *shape]}, not {list(ask.noises.shape)}")
    if ask.pull is not None and (tuple(ask.pull.shape) != shape or ask.each):
        raise ValueError(
            f"what is pulled back must be {list(shape)}, and no verifiers' gradients are asked with it"
        )


def kernel_of(ask: Gradient) -> Kernel:
    return ODE if ask.kernel is None else ask.kernel


def kind_of(ask: Gradient, process: PromptProcess) -> Hashable:
    """Questions of one kind go in one batch: the same model calls, stepped and gone back through alike."""
    steps = (ask.particles.step, *ask.calls)
    places = tuple(
        (process.place(i), None if process.places is None else process.places[i].time) for i in steps
    )
    return steps, places, kernel_of(ask), ask.through, ask.each, ask.noises is None, ask.pull is None


def digest(ask: Gradient, row: int) -> str:
    """Tells one row's question from every other that a candidate was asked at this step: also by its latents."""
    told = hashlib.blake2b(digest_size=8)
    told.update(repr((ask.calls, kernel_of(ask), ask.through, ask.each)).encode())
    for name, tensor in _tensors(ask, row):
        told.update(f"{name}{tuple(tensor.shape)}".encode())
        told.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return told.hexdigest()


def _tensors(ask: Gradient, row: int) -> Iterator[tuple[str, Tensor]]:
    yield "x", ask.particles.x[row]
    if ask.noises is not None:
        yield "noises", ask.noises[:, row]
    if ask.pull is not None:
        yield "pull", ask.pull[row]
