"""Ties among images of one prompt, broken by comparisons of two at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations

SPAN = 0.02  # between the winner of all comparisons and the loser of all: less than what judges tell apart

Compare = Callable[[Sequence[tuple[int, int]]], list[float | None]]
"""Ordered pairs of images -> the share in [0, 1] by which the first is better; None where there is no answer."""


def tie_breaks(totals: Sequence[float], prompts: Sequence[str], most: int, compare: Compare) -> list[float]:
    """What is added to the total of each image, in [-SPAN/2, SPAN/2]: SPAN times (share of comparisons won - 1/2).

    Images tie where prompt and total are equal. Each is compared with up to `most` others of its group (all of them
    where there are no more, else its neighbours in a ring), in both orders: a judge that prefers the first, or the
    second, of any two gives both a half, so that its preference for a position cancels.
    """
    groups: dict[tuple[str, float], list[int]] = defaultdict(list)
    for i, (prompt, total) in enumerate(zip(prompts, totals, strict=True)):
        if total == total:  # an image without a score ties with none
            groups[prompt, total].append(i)
    pairs = [pair for group in groups.values() for pair in pairings(group, most)]
    ordered = [turned for a, b in pairs for turned in ((a, b), (b, a))]
    shares = compare(ordered) if ordered else []
    won, met = defaultdict[int, float](float), defaultdict[int, int](int)
    for (first, second), share in zip(ordered, shares, strict=True):
        if share is None:
            continue
        won[first] += share
        won[second] += 1 - share
        met[first] += 1
        met[second] += 1
    return [SPAN * (won[i] / met[i] - 0.5) if met[i] else 0.0 for i in range(len(totals))]


def pairings(group: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Pairs within a group so that nobody meets more than `most` others, and all meet equally many.

    most: 0 or 1 make no pairs of groups that are larger than they.
    """
    if len(group) - 1 <= most:
        return list(combinations(group, 2))
    places = range(len(group))
    ring = {frozenset((i, (i + d) % len(group))) for d in range(1, most // 2 + 1) for i in places}
    return [(group[a], group[b]) for a, b in sorted(tuple(sorted(pair)) for pair in ring)]
