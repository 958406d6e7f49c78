"""Refuses more candidates at once than the memory of this machine could hold, before they are made."""

from __future__ import annotations

import os
from contextlib import suppress

from torch import Tensor

from genscale.errors import UsageError

SHARE = 0.5  # of the memory: a search holds its latents about twice


def check_memory(rows: int, latents: Tensor) -> None:
    """UsageError: so many rows of latents [*latent], in float32, would not fit.

    rows: candidates that a sampler starts together.
    """
    needed, there = 4 * rows * latents.numel(), _memory()
    if needed > SHARE * there:
        raise UsageError(
            f"{rows:,} candidates of {list(latents.shape)} at once take {needed / 2**30:.0f} GB, and this machine has "
            f"{there / 2**30:.0f} GB: start fewer together."
        )


def _memory() -> float:
    """Bytes that this process may use; infinity where the system does not say."""
    found = [float("inf")]
    with suppress(AttributeError, OSError, ValueError):  # not on every system
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ImportError):  # not on Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            found.append(limit)
    return min(found)
