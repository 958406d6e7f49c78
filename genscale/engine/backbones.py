"""Which pretrained networks verifiers see images with: one that shares its network with a searched one is no second
opinion."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.plugins.limits import shown


def backbones(verifier: Any) -> frozenset[str]:
    """What a verifier declares as its `backbone`: a name, or several; empty where it says none.

    Of a wrapper without one: that of the verifier that it wraps (its `verifier`). UsageError: it declares something
    else.
    """
    found = getattr(verifier, "backbone", None)
    if found is None:
        inner = getattr(verifier, "verifier", None)
        return frozenset() if inner is None or isinstance(inner, str) else backbones(inner)
    names = [found] if isinstance(found, str) else list(found) if isinstance(found, Collection) else [None]
    if not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"backbone={shown(found)} of {type(verifier).__name__} must be the name of a network, or several names."
        )
    return frozenset(names)


def shared_backbones(roles: Roles) -> list[str]:
    """One sentence for each held-out verifier that sees with the same network as one that steers or selects.

    Its errors are partly those of the searched score: what fools the one is likely to fool the other.
    """
    steering = {
        m.name: backbones(m.verifier)
        for some in (roles.search, roles.select, roles.guard)
        for m in some.members
    }
    found = []
    for member in roles.held_out.members:
        own = backbones(member.verifier)
        for name, theirs in steering.items():
            if name != member.name and own & theirs:
                found.append(
                    f"'{member.name}' reports and '{name}' steers, and both see with {min(own & theirs)}: their errors "
                    "go together, so that the reported gain may be too high; report with a verifier of another backbone"
                )
                break
    return found


def warn_of_reports(roles: Roles, stacklevel: int) -> None:
    """Warn of held-out verifiers that steer, too, or share a backbone with one that does. stacklevel: as of
    `warnings.warn`, called from here."""
    both = set(roles.held_out.names) & {*roles.search.names, *roles.select.names, *roles.guard.names}
    if both:
        warnings.warn(
            f"'{sorted(both)[0]}' both steers and reports: a score that was optimised says nothing about quality; "
            "report with a verifier that was held out",
            stacklevel=stacklevel,
        )
    for sentence in shared_backbones(roles):
        warnings.warn(sentence, stacklevel=stacklevel)
