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

    totals: of its finished candidates, in order; at least one. units: that it was given so far.
    """

    totals: tuple[float, ...]
    units: int

    @property
    def best(self) -> float:
        return max(self.totals)


Gains = Callable[[Sequence[Seen]], list[Gain]]


def gains_for(judge: VerifierSet) -> Gains:
    """The estimate that suits the verifiers that pick the winner."""
    return from_probabilities if answers_probability(judge) else from_scores


def answers_probability(judge: VerifierSet) -> bool:
    """Whether totals are probabilities: one verifier, of weight 1, that says `answers_probability = True`."""
    alone = judge.members[0] if len(judge.members) == 1 else None
    return (
        alone is not None
        and alone.weight == 1
        and bool(getattr(alone.verifier, "answers_probability", False))
    )


def from_scores(seen: Sequence[Seen]) -> list[Gain]:
    """Expected improvement under a normal distribution for each prompt, shrunk to that of all.

    One score has no variance, and the mean of few is uncertain: genscale.numerics.shrunk_normal.
    """
    laws = shrunk_normals([of.totals for of in seen])
    return [partial(law.improvement, of.best) for law, of in zip(laws, seen, strict=True)]


def from_probabilities(seen: Sequence[Seen]) -> list[Gain]:
    """Gain in the probability that the chosen candidate is right: r (1 - r)^(k - 1) (1 - best).

    r is the rate of right candidates of the prompt: the mean of their probabilities, in which the mean of all prompts
    counts like PRIOR candidates. A unit that finished nothing (all of it was rejected) counts like a candidate of
    probability 0. A new candidate is taken to be right or wrong without doubt, which is the most that it can add.
    """
    centre = math.fsum(math.fsum(of.totals) / _tried(of) for of in seen) / len(seen)
    rates = [(math.fsum(of.totals) + PRIOR * centre) / (_tried(of) + PRIOR) for of in seen]
    return [partial(_gain_of_rate, rate, of.best) for rate, of in zip(rates, seen, strict=True)]


def _gain_of_rate(rate: float, best: float, k: int) -> float:
    return (1 - best) * rate * (1 - rate) ** (k - 1)


def _tried(seen: Seen) -> int:
    return max(len(seen.totals), seen.units)
