"""The kernel of the steps outside the window in which a sampler branches."""

from __future__ import annotations

from genscale.diffusion.kernels import Kernel, Own, parse
from genscale.protocol.interfaces import Process


def outside(process: Process, rest: str | Kernel, branched: bool = True) -> Kernel | None:
    """The kernel outside the window. None stands for the pipeline's own scheduler, if that can step here.

    branched: whether another kernel steps inside the window. The scheduler must then be able to continue from latents
    that it did not produce.
    """
    kernel = parse(rest)
    if not isinstance(kernel, Own):
        return kernel
    return None if process.own_steps and (process.own_restarts or not branched) else parse("ode")
