"""Which of several arms the next candidates are drawn from: evenly, by sequential halving, or by Thompson sampling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from genscale.algorithms.budget_planning import WAVE, wave_of
from genscale.key import Key
from genscale.numerics.expected_maximum import standard_maximum
from genscale.numerics.thompson import Belief, Tally
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import ARM, draw
from genscale.protocol.queries import Query, Score, Solve

ROUND = 2  # candidates of each arm in a round of halving that nothing limits: a variance needs two

Allocation = Generator[Query, Any, None]


@dataclass
class Pulls:
    """The candidates of all arms so far, and how more of them are made.

    costs: NFE of a candidate of each arm. most: candidates in all; None: until the budget ends the search. aim: "best"
    or "mean". wave: of Thompson sampling. scores: those of each arm. made: candidates started.
    """

    process: Process
    key: Key
    costs: tuple[int, ...]
    most: int | None
    aim: str = "best"
    wave: int = 1
    scores: list[list[Scores]] = field(init=False)
    made: int = 0

    def __post_init__(self) -> None:
        self.scores = [[] for _ in self.costs]

    @property
    def arms(self) -> range:
        return range(len(self.costs))

    def pull(self, arm: int, n: int) -> Allocation:
        """Finish and score n candidates of an arm. Of the first arm candidate i is the same as in best_of_n."""
        fresh = [draw(self.key, self.made + i) for i in range(n)]
        if arm > 0:
            fresh = [replace(c, details={ARM: float(arm)}) for c in fresh]
        self.made += n
        finished = yield Solve(self.process.start(fresh))
        found = yield Score(finished)
        self.scores[arm].append(found)

    def payable(self, arm: int) -> int | None:
        """How many candidates of an arm alone may still be made; None: no number limits them."""
        calls = self.process.calls(0, 1)
        limits = [None if self.most is None else self.most - self.made]
        limits += [None if self.process.nfe_left is None else self.process.nfe_left // self.costs[arm]]
        limits += [None if self.process.calls_left is None or not calls else self.process.calls_left // calls]
        return min((limit for limit in limits if limit is not None), default=None)

    def payable_each(self, arms: Sequence[int], most: int) -> int:
        """How many candidates of each of these arms may be made, at most `most`."""
        nfe, calls = self.process.nfe_left, self.process.calls_left
        each = self.process.calls(0, 1) * len(arms)
        limits = [most] if self.most is None else [most, (self.most - self.made) // len(arms)]
        limits += [] if nfe is None else [nfe // sum(self.costs[arm] for arm in arms)]
        limits += [] if calls is None or not each else [calls // each]
        return max(0, min(limits))

    def affordable(self, arms: Sequence[int]) -> list[int]:
        """Those of the arms that one more candidate may be made of."""
        return [arm for arm in arms if self.payable(arm) != 0]

    def totals(self) -> list[list[float]]:
        """The totals of each arm's candidates that did not fail, to be compared with each other."""
        parts = [part[part.alive] for scores in self.scores for part in scores]
        if not parts:
            return [[] for _ in self.arms]
        totals = iter(Scores.cat(parts).total.tolist())
        return [[next(totals) for part in scores for _ in part.alive] for scores in self.scores]

    def bought(self, arm: int) -> int:
        """How many candidates of the arm what is left would buy; a wave where nothing limits them."""
        left = self.payable(arm)
        return WAVE if left is None else max(left, 1)

    def merit(self, arm: int, mean: float, std: float) -> float:
        """What the arm is worth if its scores are N(mean, std^2)."""
        return mean if self.aim == "mean" else mean + std * standard_maximum(min(self.bought(arm), 10_000))


def even(pulls: Pulls) -> Allocation:
    """As many of each arm, up to one: the last candidates go to the first arms that can be paid."""
    if len(pulls.arms) == 1:
        yield from rest(pulls, 0)
        return
    while live := pulls.affordable(pulls.arms):
        n = pulls.payable_each(live, wave_of(pulls.process))
        for arm in live:
            if pulls.payable(arm) != 0:
                yield from pulls.pull(arm, max(n, 1))


def in_order(pulls: Pulls) -> Allocation:
    """As many of each arm: all of the first one, then all of the second, and so on. Of equal candidates the one of the
    first arm ranks first then. What cannot be divided goes to the last arms, and what these do not use, and all without
    any limit, as by `even`.
    """
    limited = all(pulls.payable(arm) is not None for arm in pulls.arms)
    for arm in pulls.arms if limited else ():
        if left := pulls.payable(arm):
            n = pulls.payable_each(pulls.affordable(range(arm, len(pulls.arms))), left)
            yield from pulls.pull(arm, max(n, 1))
    yield from even(pulls)


def rest(pulls: Pulls, arm: int) -> Allocation:
    """All that is left to one arm, in waves."""
    while (left := pulls.payable(arm)) != 0:
        wave = wave_of(pulls.process)
        yield from pulls.pull(arm, wave if left is None else min(wave, left))


def halving(pulls: Pulls) -> Allocation:
    """Sequential halving: rounds of equal cost, each of all arms that are left; what they leave goes to the best one.

    Without a limit of candidates, NFE or verifier calls every round is two candidates of each arm.
    """
    live = list(pulls.arms)
    rounds = math.ceil(math.log2(len(live)))
    for number in range(rounds):
        share = rounds - number
        limit = pulls.payable_each(live, 100_000)
        unlimited = all(pulls.payable(arm) is None for arm in live)
        n = ROUND if unlimited else max(1, limit // share)
        for arm in live:
            if (left := pulls.payable(arm)) != 0:
                yield from pulls.pull(arm, n if left is None else min(n, left))
        totals = pulls.totals()
        worth = {arm: _merit_of(pulls, arm, totals[arm]) for arm in live}
        order = sorted(live, key=lambda arm: -worth[arm])  # stable: of equals the first
        live = sorted(order[: math.ceil(len(live) / 2)])
    yield from rest(pulls, live[0])


def _merit_of(pulls: Pulls, arm: int, totals: Sequence[float]) -> float:
    if not totals:  # all have failed
        return -math.inf
    mean = math.fsum(totals) / len(totals)
    variance = math.fsum((t - mean) ** 2 for t in totals) / max(len(totals) - 1, 1)
    return pulls.merit(arm, mean, math.sqrt(variance))


def thompson(pulls: Pulls) -> Allocation:
    """Thompson sampling with normally distributed scores of unknown mean and variance.

    The prior is normal-inverse-gamma, of the weight of one score: its mean and variance are those of all scores so far.
    Before the first draw every arm gets one candidate, as far as they can be paid.
    """
    for arm in pulls.arms:
        if len(pulls.arms) > 1 and pulls.payable(arm) != 0:
            yield from pulls.pull(arm, 1)
    turn = 0
    while live := pulls.affordable(pulls.arms):
        chosen = Counter(_drawn(pulls, live, turn + i) for i in range(pulls.wave))
        turn += pulls.wave
        for arm, n in sorted(chosen.items()):
            left = pulls.payable(arm)
            if left != 0:
                yield from pulls.pull(arm, n if left is None else min(n, left))


def _drawn(pulls: Pulls, live: Sequence[int], turn: int) -> int:
    """The arm of the best draw from the posteriors."""
    totals = pulls.totals()
    every = [t for some in totals for t in some]
    if not every:
        return live[turn % len(live)]
    mean = math.fsum(every) / len(every)
    variance = math.fsum((t - mean) ** 2 for t in every) / len(every)
    prior = Belief(mean, 1.0, 2.0, max(variance, 1e-12))
    best, found = -math.inf, live[0]
    for arm in live:
        seen = Tally()
        for total in totals[arm]:
            seen.add(total)
        u, v = (float(x) for x in pulls.key.fold("thompson", turn, arm).uniform(2).clamp(1e-12, 1 - 1e-12))
        worth = pulls.merit(arm, *prior.given(seen).pair(u, v))
        if worth > best:
            best, found = worth, arm
    return found


ALLOCATIONS: dict[str, Callable[[Pulls], Allocation]] = {
    "even": even,
    "in_order": in_order,
    "halving": halving,
    "thompson": thompson,
}
