"""What one more candidate of a prompt is expected to add, from the scores of all prompts that share a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from genscale.engine.verifier_roles import VerifierSet
from genscale.numerics.shrunk_normal import shrunk_normals

Gain = Callable[[int], float]
"""k -> what the k-th further unit of a prompt is expected to add to its best score; not increasing in k."""

PRIOR = 2.0
"""Candidates that the mean probability of all prompts counts in the rate of one (ours)."""


@dataclass(frozen=True)
class Seen:
    """What is known of one prompt.

    totals: of its finished candidates, in order; there may be none yet. units: that it was given so far.
    """

    totals: tuple[float, ...]
    units: int


Gains = Callable[[Sequence[Seen]], list[Gain]]


def gains_for(judge: VerifierSet) -> Gains:
    """The estimate that suits the verifiers that pick the winner."""
    return from_probabilities if judge.probability else from_scores


def from_scores(seen: Sequence[Seen]) -> list[Gain]:
    """Expected improvement under a normal distribution for each prompt, shrunk to that of all.

    One score has no variance, and the mean of few is uncertain: genscale.numerics.shrunk_normal. A prompt without a
    finished candidate has the law of all, and improves on the worst candidate of all.
    """
    every = [total for of in seen for total in of.totals]
    if not every:
        return [lambda k: 1 / k for _ in seen]
    laws = shrunk_normals([of.totals for of in seen])
    bests = [max(of.totals, default=min(every)) for of in seen]
    return [partial(law.improvement, best) for law, best in zip(laws, bests, strict=True)]


def from_probabilities(seen: Sequence[Seen]) -> list[Gain]:
    """Gain in the probability that the chosen candidate is right: r (1 - r)^(k - 1) (1 - best).

    r is the rate of right candidates of the prompt: the mean of their probabilities, in which the mean of all prompts
    counts like PRIOR candidates. A unit that finished nothing (all of it was rejected) counts like a candidate of
    probability 0. A new candidate is taken to be right or wrong without doubt, which is the most that it can add.
    """
    centre = math.fsum(math.fsum(of.totals) / _tried(of) for of in seen) / len(seen)
    rates = [(math.fsum(of.totals) + PRIOR * centre) / (_tried(of) + PRIOR) for of in seen]
    return [partial(_gain_of_rate, r, max(of.totals, default=0.0)) for r, of in zip(rates, seen, strict=True)]


def _gain_of_rate(rate: float, best: float, k: int) -> float:
    return (1 - best) * rate * (1 - rate) ** (k - 1)


def _tried(seen: Seen) -> int:
    return max(len(seen.totals), seen.units, 1)
