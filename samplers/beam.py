"""Beam search over denoising states: many begin, few go on, and those branch."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.beam_search import BeamSearch


@dataclass(frozen=True)
class Beam(BeamSearch):
    """Many noises to the middle of the run; there and twice more the best states are kept and branched.

    Cost in NFE: n f(0, s_1 + 1) + sum over levels k of p_k f(s_k + 1, s_(k+1) + 1), n being the noises
    """
