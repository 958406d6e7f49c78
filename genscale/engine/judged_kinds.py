"""Which kinds of media verifiers judge, and the refusal of verifiers that do not judge what a pipeline makes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.media_items import IMAGE, KINDS, VIDEO, plural
from genscale.plugins import registry
from genscale.plugins.limits import shown

DEFAULT = (IMAGE, VIDEO)  # of verifiers that do not say


def judged_kinds(verifier: Any) -> frozenset[str]:
    """The kinds that a verifier declares (`judges`), or the one that it wraps (its `verifier`) declares.

    UsageError: it declares something else than kinds.
    """
    found = getattr(verifier, "judges", None)
    found = getattr(getattr(verifier, "verifier", None), "judges", None) if found is None else found
    if found is None:
        return frozenset(DEFAULT)
    if not isinstance(found, list | tuple | set | frozenset) or not found or not set(found) <= set(KINDS):
        raise UsageError(
            f"judges={shown(found)} of {type(verifier).__name__} must be kinds of media: some of {', '.join(KINDS)}."
        )
    return frozenset(found)


def check_judges(roles: Roles, kind: str, where: str = "this pipeline makes") -> None:
    """UsageError where a verifier does not judge this kind. where: what makes it or holds it, for the message."""
    for verifiers in roles.all:
        for member in verifiers.members:
            kinds = judged_kinds(member.verifier)
            if kind not in kinds:
                raise UsageError(
                    f"verifier '{member.name}' judges {_named(kinds)}, and {where} {plural(kind)}: "
                    f"{_instead(kind)}."
                )


def all_judge(roles: Roles, kinds: Collection[str]) -> bool:
    """Whether every verifier judges each of these kinds."""
    return all(set(kinds) <= judged_kinds(m.verifier) for verifiers in roles.all for m in verifiers.members)


def _named(kinds: frozenset[str]) -> str:
    return " and ".join(plural(kind) for kind in KINDS if kind in kinds)


def _instead(kind: str) -> str:
    """What to do for want of a verifier of this kind."""
    if kind in DEFAULT:
        return "use another, such as clip"
    some, declared = _registered(kind), f"one of your own that declares judges = ('{kind}',)"
    return f"use {', '.join(some)}, or {declared}" if some else f"use {declared}"


def _registered(kind: str) -> list[str]:
    """Registered verifiers that judge this kind; those whose packages are missing are left out."""
    found = []
    for name in registry.found("verifier"):
        try:
            if kind in getattr(registry.load("verifier", name), "judges", ()):
                found.append(name)
        except UsageError:
            continue
    return found
