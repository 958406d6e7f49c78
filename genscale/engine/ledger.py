"""What was spent on what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from genscale.protocol.queries import BACKWARD


@dataclass
class Ledger:
    """Counts of a run. Seconds are wall clock, not synchronised with an accelerator inside the loop.

    evaluations: rows through the denoiser (a guidance pair counts 2); probes: those of them spent on
    finding out how a pipeline behaves, where it could not be seen without running it. backwards: rows of the denoiser
    that gradients went back through; what a checkpoint computes again is among the evaluations. decodes: images or
    videos decoded. verifier_calls: images scored, by verifier.
    """

    evaluations: int = 0
    probes: int = 0
    backwards: int = 0
    decodes: int = 0
    verifier_calls: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def nfe(self) -> int:
        """What a budget counts."""
        return self.evaluations + BACKWARD * self.backwards

    @contextmanager
    def clock(self, kind: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[kind]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(kind, time.perf_counter() - start)

    def add_seconds(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    def count_scores(self, verifier: str, n: int) -> None:
        self.verifier_calls[verifier] = self.verifier_calls.get(verifier, 0) + n

    def as_dict(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "probes": self.probes,
            "backwards": self.backwards,
            "decodes": self.decodes,
            "verifier_calls": dict(self.verifier_calls),
            "seconds": {k: round(v, 4) for k, v in self.seconds.items()},
            "peak_memory_bytes": peak_memory(),
        }


def peak_memory() -> int:
    """Peak bytes allocated on the GPU, or the peak resident size of this process without one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
