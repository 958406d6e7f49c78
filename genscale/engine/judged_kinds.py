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


def check_judges(roles: Roles, kinds: Collection[str], where: str = "this pipeline makes") -> None:
    """UsageError where a verifier judges none of these kinds, of which the items are. where: what makes or holds them,
    for the message."""
    for verifiers in roles.all:
        for member in verifiers.members:
            judged = judged_kinds(member.verifier)
            if not judged & set(kinds):
                raise UsageError(
                    f"verifier '{member.name}' judges {_named(judged, 'and')}, and {where} {_named(kinds, 'or')}: "
                    f"{_instead(kinds)}."
                )


def all_judge(roles: Roles, kinds: Collection[str]) -> bool:
    """Whether every verifier judges each of these kinds."""
    return all(set(kinds) <= judged_kinds(m.verifier) for verifiers in roles.all for m in verifiers.members)


def _named(kinds: Collection[str], word: str) -> str:
    return f" {word} ".join(plural(kind) for kind in KINDS if kind in kinds)


def _instead(kinds: Collection[str]) -> str:
    """What to do for want of a verifier of these kinds."""
    if set(kinds) & set(DEFAULT):
        return "use another, such as clip"
    names = ", ".join(f"'{kind}'" for kind in sorted(kinds))
    some, declared = _registered(kinds), f"one of your own that declares judges = ({names},)"
    return f"use {', '.join(some)}, or {declared}" if some else f"use {declared}"


def _registered(kinds: Collection[str]) -> list[str]:
    """Registered verifiers that declare one of these kinds; those whose packages are missing are left out."""
    found = []
    for name in registry.found("verifier"):
        try:
            if set(kinds) & set(getattr(registry.load("verifier", name), "judges", ())):
                found.append(name)
        except UsageError:
            continue
    return found
