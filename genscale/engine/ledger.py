"""Counts of what a run spends."""

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
    """Counts of a run.

    evaluations: rows through the denoiser; with classifier-free guidance a step counts 2. Recomputed calls of
        checkpointing count too.
    skipped: of these evaluations, how much work caches of the model spared (docs/how-to/compile-and-caches.md).
    probes: evaluations, among these, that were needed to find out how the pipeline behaves.
    backwards: rows of the denoiser in backward passes.
    decodes: images or videos decoded, also those that only showed how a search goes.
    verifier_calls: images or videos scored, by verifier.
    seconds: wall clock by kind of work; not synchronised with the accelerator inside the loop.
    """

    evaluations: int = 0
    skipped: float = 0.0
    probes: int = 0
    backwards: int = 0
    decodes: int = 0
    verifier_calls: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def nfe(self) -> int:
        """Evaluations as a budget counts them: each row in a backward pass counts BACKWARD."""
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

    def add(self, other: Ledger) -> None:
        """Take in the counts of another part of the run."""
        self.evaluations += other.evaluations
        self.skipped += other.skipped
        self.probes += other.probes
        self.backwards += other.backwards
        self.decodes += other.decodes
        for verifier, n in other.verifier_calls.items():
            self.count_scores(verifier, n)
        for kind, seconds in other.seconds.items():
            self.add_seconds(kind, seconds)

    def as_dict(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "skipped": round(self.skipped, 3),
            "probes": self.probes,
            "backwards": self.backwards,
            "decodes": self.decodes,
            "verifier_calls": dict(self.verifier_calls),
            "seconds": {k: round(v, 4) for k, v in self.seconds.items()},
            "peak_memory_bytes": peak_memory(),
        }


def peak_memory() -> int:
    """Peak bytes allocated on the GPU; without one, the peak resident size of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
