"""The weighted candidates that a particle method returns beside its best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genscale.numerics.resampling import ess, log_mean_exp, normalised
from genscale.protocol.particles import Candidate


@dataclass(frozen=True, eq=False)
class Population:
    """Finished candidates with their log-weights, carried through the whole run without a reset.

    candidates: n. log_weights: float64 [n]. totals: final scores [n].
    has_evidence: whether the mean of the exponentials of the log-weights estimates the evidence Z of the tilted
        distribution p(x) exp(strength R(x)) / Z, without bias. A sampler has to claim this, and
        tests/test_evidence.py holds each that does against closed forms.
    resampled: for every resampling (step, effective sample size before it as a share of the pool).
    ancestors: for each candidate the id of its first ancestor, the noise that its lineage began with; empty: unknown.
    """

    candidates: tuple[Candidate, ...]
    log_weights: Tensor
    totals: Tensor
    resampled: tuple[tuple[int, float], ...] = ()
    has_evidence: bool = False
    ancestors: tuple[int, ...] = ()

    @staticmethod
    def empty() -> Population:
        """Of a pass in which all candidates failed."""
        nothing = torch.zeros(0, dtype=torch.float64)
        return Population((), nothing, nothing)

    @property
    def weights(self) -> Tensor:
        """Normalised weights float64 [n]."""
        return normalised(self.log_weights)

    @property
    def log_evidence(self) -> float:
        """log of the estimate of Z; -inf for an empty population, NaN where there is none."""
        if not self.has_evidence:
            return math.nan
        return float(log_mean_exp(self.log_weights)) if len(self.candidates) else -math.inf

    @property
    def ess(self) -> float:
        """Effective sample size of the final weights, in [1, n]. It is high also where all candidates descend from one
        noise and are nearly alike: see `distinct_ancestors`."""
        return float(ess(self.log_weights))

    @property
    def distinct_ancestors(self) -> int | None:
        """How many different noises the candidates with a weight descend from, in [0, n]; None where it is not known.

        Resampling makes copies, whose weights are equal again, so that a high effective sample size does not tell that
        few lineages are left. Estimates are then those of about so many independent draws.
        """
        if len(self.ancestors) != len(self.candidates):
            return None
        return len(
            {a for a, w in zip(self.ancestors, self.log_weights.tolist(), strict=True) if w > -math.inf}
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the weight of every candidate, evidence, effective sample sizes and number of first ancestors."""
        weights = dict[str, float]()  # particle Gibbs may hold a candidate twice
        for candidate, weight in zip(self.candidates, self.weights.tolist(), strict=True):
            weights[str(candidate.id)] = weights.get(str(candidate.id), 0.0) + weight
        log_z = self.log_evidence
        return {
            "log_evidence": log_z if math.isfinite(log_z) else None,
            "ess": self.ess,
            "distinct_ancestors": self.distinct_ancestors,
            "resampled": [{"step": step, "ess_share": round(share, 4)} for step, share in self.resampled],
            "weights": weights,
        }

    @staticmethod
    def cat(parts: Sequence[Population]) -> Population:
        """Independent passes as one population; weights are relative to the evidence and size of each."""
        return Population(
            tuple(c for p in parts for c in p.candidates),
            torch.cat([p.log_weights for p in parts]),
            torch.cat([p.totals for p in parts]),
            tuple(r for p in parts for r in p.resampled),
            all(p.has_evidence for p in parts),
            tuple(a for p in parts for a in p.ancestors),
        )

    def of_the_best(self) -> Population:
        """All weight on the best candidate: the limit of infinite strength, which has no evidence."""
        if not self.candidates:
            return self
        best = torch.where(self.totals == self.totals.max(), 0.0, -math.inf).to(torch.float64)
        return replace(self, log_weights=best, has_evidence=False)
