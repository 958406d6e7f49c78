"""The kernel of the steps outside the window in which a sampler branches."""

from __future__ import annotations

from genscale.diffusion.kernels import Kernel, Own, parse
from genscale.protocol.interfaces import Process


def outside(process: Process, rest: str | Kernel, branched: bool = True) -> Kernel | None:
    """The kernel outside a window; None is the pipeline's own scheduler, where that can step.

    branched: another kernel steps in between, so the scheduler must be able to go on from latents it did not make.
    """
    kernel = parse(rest)
    if not isinstance(kernel, Own):
        return kernel
    return None if process.own_steps and (process.own_restarts or not branched) else parse("ode")
