"""Checks of what a sampler yields and returns, so that its mistakes are raised where they are made."""

from __future__ import annotations

from genscale.engine.gradient_checks import check_gradient
from genscale.engine.process import PromptProcess
from genscale.protocol.interfaces import Process, Sampler
from genscale.protocol.particles import arm_of
from genscale.protocol.queries import Ask, Denoise, Gradient, Query, Score, Solve


def check_grid(process: Process, sampler: Sampler) -> PromptProcess:
    """The process that a sampler's `grid` returned. TypeError: it was not made by `regridded`."""
    if not isinstance(process, PromptProcess):
        raise TypeError(f"{type(sampler).__name__}.grid must return process.regridded(...), not {process!r}")
    return process


def check_query(query: Query, process: PromptProcess) -> None:
    """TypeError or ValueError for queries that cannot be answered."""
    steps = process.steps
    if isinstance(query, Ask):
        return
    if not isinstance(query, Solve | Denoise | Score | Gradient):
        raise TypeError(f"a sampler yields Solve, Denoise, Score, Gradient or Ask, not {query!r}")
    step = query.particles.step
    if query.particles.inner and not (isinstance(query, Solve) and query.kernel is not None):
        raise ValueError(
            "particles inside a transition of several model calls must be solved with its kernel"
        )
    if isinstance(query, Solve) and query.until is not None and not step <= query.until <= steps:
        raise ValueError(f"particles at step {step} of {steps} cannot be solved to step {query.until}")
    if isinstance(query, Denoise):
        process.schedule  # noqa: B018  where the noise levels cannot be read: refused before it is paid for
    if len({arm_of(c) for c in query.particles.candidates}) > 1:
        raise ValueError(
            "candidates of several arms cost differently: ask for those of each arm by themselves"
        )
    if isinstance(query, Denoise) and step >= steps:
        raise ValueError("particles at the clean end have no model call left: Denoise before it")
    if isinstance(query, Gradient):
        check_gradient(query, process)
