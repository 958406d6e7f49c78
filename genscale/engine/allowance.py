"""What one search was granted from a budget that prompts share (genscale.engine.pool)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Allowance:
    """All that was granted so far, what is spent included.

    nfe, calls: denoiser evaluations and verifier calls. units: how many of the units that the search asked for.
    """

    nfe: int = 0
    calls: int = 0
    units: int = 0
