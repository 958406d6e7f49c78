"""Verifiers that are called while the search lends its pipeline to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from genscale.engine.verifier_roles import Roles, VerifierSet
from genscale.pipelines.pipeline_lock import Claim


@dataclass(frozen=True)
class LendingVerifiers(VerifierSet):
    claim: Claim | None = None

    def _columns(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.claim is None or not self.members:
            return super()._columns(*args, **kwargs)
        with self.claim.lent():
            return super()._columns(*args, **kwargs)


def lending(roles: Roles, claim: Claim) -> Roles:
    """The same roles, whose verifiers lend what the claim holds while they score."""
    return roles.each(lambda s: LendingVerifiers(s.members, s.ensemble, s.fixed, s.by_category, claim))
