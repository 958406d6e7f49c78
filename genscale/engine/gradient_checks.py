"""Checks of Gradient queries, and which of them share model calls."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from itertools import pairwise

from torch import Tensor

from genscale.diffusion.kernels import Ddim, Glass, Kernel, Own
from genscale.engine.process import PromptProcess
from genscale.protocol.queries import Gradient

ODE = Ddim(0.0)


def check_gradient(query: Gradient, process: PromptProcess) -> None:
    """ValueError for a sampler's mistakes: steps out of order, wrong shapes, options that exclude each other."""
    particles, calls = query.particles, query.calls
    steps, shape = (particles.step, *calls), tuple(particles.x.shape)
    if any(b <= a for a, b in pairwise(steps)) or steps[-1] >= process.model_steps:
        raise ValueError(
            f"a gradient's model calls {steps} must increase and lie before step {process.model_steps}"
        )
    if isinstance(query.kernel, Own) or (isinstance(query.kernel, Glass) and query.kernel.inner > 1):
        raise ValueError(f"a gradient needs a kernel of one model call a transition, not {query.kernel}")
    if query.through not in ("model", "decoder"):
        raise ValueError(f"a gradient goes through 'model' or 'decoder', not '{query.through}'")
    if query.through == "decoder":
        if calls or query.noises is not None:
            raise ValueError("a gradient through the decoder takes one model call and no noises")
        if process.schedule.level(particles.step).alpha == 0:
            raise ValueError(
                "at pure noise there is no gradient through the decoder alone: ask at a later step"
            )
    if query.noises is not None and tuple(query.noises.shape) != (len(calls), *shape):
        raise ValueError(
            f"a gradient's noises must be {[len(calls), *shape]}, not {list(query.noises.shape)}"
        )
    if query.pull is not None and (tuple(query.pull.shape) != shape or query.each):
        raise ValueError(f"pull must have shape {list(shape)}, and excludes each=True")


def kernel_of(query: Gradient) -> Kernel:
    return ODE if query.kernel is None else query.kernel


def kind_of(query: Gradient, process: PromptProcess) -> Hashable:
    """Queries for which this is equal share model calls: same steps, kernel, and kind of backward pass."""
    steps = (query.particles.step, *query.calls)
    places = tuple(
        (process.place(i), None if process.places is None else process.places[i].time) for i in steps
    )
    return (
        steps,
        places,
        kernel_of(query),
        query.through,
        query.each,
        query.noises is None,
        query.pull is None,
    )


def digest(query: Gradient, row: int) -> str:
    """Identifies one row of a query among all about the same candidate and step, by its options and tensors."""
    digested = hashlib.blake2b(digest_size=8)
    digested.update(repr((query.calls, kernel_of(query), query.through, query.each)).encode())
    for name, tensor in _tensors(query, row):
        digested.update(f"{name}{tuple(tensor.shape)}".encode())
        digested.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digested.hexdigest()


def _tensors(query: Gradient, row: int) -> Iterator[tuple[str, Tensor]]:
    yield "x", query.particles.x[row]
    if query.noises is not None:
        yield "noises", query.noises[:, row]
    if query.pull is not None:
        yield "pull", query.pull[row]
