"""The order in which finished candidates are chosen, from their totals and two rules.

Those that break fewer requirements come first (the feasibility rule of Deb 2000, "An efficient constraint handling
method for genetic algorithms", section 3), then the higher total, then the earlier. With a margin the model's own
candidate is kept where no other is better than it by more than that.
"""

from __future__ import annotations

from collections.abc import Sequence


def keeps_own(totals: Sequence[float], broken: Sequence[int], own: int | None, margin: float | None) -> bool:
    """Whether the model's own candidate, at place `own`, is kept though another comes before it.

    Never, if a candidate before it breaks fewer requirements.
    """
    if own is None or margin is None:
        return False
    first = min(range(len(totals)), key=lambda i: (broken[i], -totals[i]))
    return first != own and broken[own] == broken[first] and totals[first] <= totals[own] + margin


def selection_order(
    totals: Sequence[float], broken: Sequence[int], own: int | None = None, margin: float | None = None
) -> list[int]:
    """Places of the candidates, best first. broken: how many requirements each breaks."""
    order = sorted(range(len(totals)), key=lambda i: (broken[i], -totals[i]))
    if own is not None and keeps_own(totals, broken, own, margin):
        order.remove(own)
        order.insert(0, own)
    return order


def leaders(
    totals: Sequence[float], broken: Sequence[int], own: int | None = None, margin: float | None = None
) -> list[int]:
    """Places of those that were the best when they were scored, in that order."""
    found: list[int] = []
    best: int | None = None
    for i, (total, breaks) in enumerate(zip(totals, broken, strict=True)):
        if best is None or (-breaks, total) > (-broken[best], totals[best]):
            best = i
        kept = (
            own is not None
            and own <= i
            and keeps_own((totals[best], totals[own]), (broken[best], broken[own]), 1, margin)
        )
        won = own if kept else best
        if won is not None and (not found or found[-1] != won):
            found.append(won)
    return found
