"""Exact answers about a budget that prompts share, where each prompt's scores are independent draws of a known law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise, product

from genscale.engine.pool_gains import Gain, Seen


@dataclass(frozen=True)
class Discrete:
    """Scores `values` with probabilities `chances`."""

    values: tuple[float, ...]
    chances: tuple[float, ...]

    def best_of(self, n: int, best: float = float("-inf")) -> float:
        """E[max(best, X_1, ..., X_n)], by enumerating the n draws."""
        total = 0.0
        for outcome in product(range(len(self.values)), repeat=n):
            chance = 1.0
            for i in outcome:
                chance *= self.chances[i]
            total += chance * max((best, *(self.values[i] for i in outcome)))
        return total

    def gain(self, best: float, k: int) -> float:
        """What the k-th further draw is expected to add: sum of F(v)^(k - 1) (1 - F(v)) over the steps above `best`."""
        levels = sorted({best, *(v for v in self.values if v > best)})
        total = 0.0
        for low, high in pairwise(levels):
            below = sum(c for v, c in zip(self.values, self.chances, strict=True) if v <= low)
            total += (high - low) * below ** (k - 1) * (1 - below)
        return total


def known(laws: Sequence[Discrete]) -> Callable[[Sequence[Seen]], list[Gain]]:
    """Gains for an engine that knows the law of each prompt."""
    return lambda seen: [partial(law.gain, max(of.totals)) for law, of in zip(laws, seen, strict=True)]


def best_allocation(laws: Sequence[Discrete], bests: Sequence[float], units: int) -> float:
    """The largest expected sum of best scores of all ways to divide the units beforehand."""
    return max(
        sum(law.best_of(n, best) for law, best, n in zip(laws, bests, counts, strict=True))
        for counts in product(range(units + 1), repeat=len(laws))
        if sum(counts) == units
    )


def sequential(laws: Sequence[Discrete], units: int, policy: Callable[..., int] | None = None) -> float:
    """The expected sum of best scores after one draw each and `units` further ones, each decided after the one before.

    policy: (bests, units left) -> the prompt that is drawn; None: the best there is, by dynamic programming.
    """

    @cache
    def value(bests: tuple[float, ...], left: int) -> float:
        if left == 0:
            return sum(bests)
        options = range(len(laws)) if policy is None else [policy(bests, left)]
        return max(expected(bests, i, left) for i in options)

    def expected(bests: tuple[float, ...], i: int, left: int) -> float:
        law = laws[i]
        return sum(
            chance * value((*bests[:i], max(bests[i], v), *bests[i + 1 :]), left - 1)
            for v, chance in zip(law.values, law.chances, strict=True)
        )

    total = 0.0
    for outcome in product(*(range(len(law.values)) for law in laws)):
        chance = 1.0
        for law, i in zip(laws, outcome, strict=True):
            chance *= law.chances[i]
        total += chance * value(tuple(law.values[i] for law, i in zip(laws, outcome, strict=True)), units)
    return total


def greedy(laws: Sequence[Discrete]) -> Callable[..., int]:
    """The policy that draws where the next draw is expected to add most."""
    return lambda bests, left: max(range(len(laws)), key=lambda i: (laws[i].gain(bests[i], 1), -i))
