"""Adaptive branching: the belief against its closed form and brute force, the law of its choices, what is counted."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from genscale.algorithms.ready_children import ReadyChildren
from genscale.algorithms.search_tree import Node, Tree
from genscale.algorithms.tree_policies import Thompson
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.thompson import Belief, Tally
from genscale.plugins import options as sampler_options
from genscale.samplers.ab_mcts import AbMcts
from genscale.samplers.best_of_n import BestOfN
from tests.analytic import run

PRIOR = Belief(0.0, 1.0, 1.0, 0.1)
SCORES = [0.3, 0.9, 0.55, 0.7, 0.2]


def tally(scores: list[float]) -> Tally:
    found = Tally()
    for score in scores:
        found.add(score)
    return found


@pytest.mark.parametrize("scores", [[], [0.4], [0.5, 0.5], SCORES, [1e6 + s for s in SCORES]])
def test_a_tally_is_count_mean_and_squares(scores: list[float]) -> None:
    found = tally(scores)
    assert found.count == len(scores)
    if scores:
        assert found.mean == pytest.approx(np.mean(scores), rel=1e-12)
        assert found.squares == pytest.approx(np.var(scores) * len(scores), rel=1e-6, abs=1e-12)
        scaled, direct = found.scaled(0.2, 4.0), tally([(s - 0.2) / 4 for s in scores])
        assert scaled.mean == pytest.approx(direct.mean, rel=1e-12)
        assert scaled.squares == pytest.approx(direct.squares, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("prior", [PRIOR, Belief(0.5, 2.0, 3.0, 0.4)])
def test_the_posterior_is_the_closed_form(prior: Belief) -> None:
    n, mean = len(SCORES), sum(SCORES) / len(SCORES)
    found = prior.given(tally(SCORES))
    assert found.kappa == prior.kappa + n
    assert found.nu == prior.nu + n
    assert found.m == pytest.approx((prior.kappa * prior.m + n * mean) / (prior.kappa + n), abs=1e-12)
    squares = sum((s - mean) ** 2 for s in SCORES)
    gap = prior.kappa * n / (prior.kappa + n) * (prior.m - mean) ** 2
    assert found.nu * found.tau2 == pytest.approx(prior.nu * prior.tau2 + squares + gap, abs=1e-12)
    one_by_one = prior
    for score in SCORES:
        one_by_one = one_by_one.given(tally([score]))
    assert vars(one_by_one) == pytest.approx(vars(found), abs=1e-12)
    assert vars(prior.given(Tally())) == pytest.approx(vars(prior), abs=1e-12)


def test_the_posterior_is_prior_times_likelihood() -> None:
    """By summation over a fine grid of means and variances, without the formula."""
    prior = Belief(0.2, 1.5, 4.0, 0.1)
    found = prior.given(tally(SCORES))
    mean = np.linspace(-2.0, 3.0, 1001)[:, None]
    variance = np.exp(np.linspace(-8, 5, 1201))[None]
    log_p = stats.invgamma.logpdf(variance, prior.nu / 2, scale=prior.nu * prior.tau2 / 2) + np.log(variance)
    log_p = log_p + stats.norm.logpdf(mean, prior.m, np.sqrt(variance / prior.kappa))
    for score in SCORES:
        log_p = log_p + stats.norm.logpdf(score, mean, np.sqrt(variance))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    assert float((p * mean).sum()) == pytest.approx(found.m, abs=1e-4)
    assert float((p * variance).sum()) == pytest.approx(found.nu * found.tau2 / (found.nu - 2), rel=1e-3)
    spread = float((p * (mean - found.m) ** 2).sum())  # of Student's t
    assert spread == pytest.approx(found.tau2 / found.kappa * found.nu / (found.nu - 2), rel=1e-3)


def test_visits_under_way_come_out_as_expected() -> None:
    belief = PRIOR.given(tally(SCORES))
    assert belief.expecting(0) == belief
    told = PRIOR.given(tally([*SCORES, *[belief.m] * 3]))
    assert vars(belief.expecting(3)) == pytest.approx(vars(told), abs=1e-12)


def misfit(draws: list[float], belief: Belief) -> float:
    """p of the draws being means of the belief, drawn as it is defined: a variance, then a mean."""
    rng = np.random.default_rng(0)
    variance = belief.nu * belief.tau2 / rng.chisquare(belief.nu, 40000)
    means = rng.normal(belief.m, np.sqrt(variance / belief.kappa))
    return float(stats.ks_2samp(draws, means).pvalue)


@pytest.mark.parametrize("belief", [PRIOR, PRIOR.given(tally(SCORES))])
def test_draws_follow_the_belief(belief: Belief) -> None:
    u = Key((5,)).uniform(4000).tolist()
    assert misfit([belief.draw(x) for x in u], belief) > 1e-3
    # The broken twin draws the next score instead of the mean.
    next_score = replace(belief, tau2=belief.tau2 * (1 + belief.kappa))
    assert misfit([next_score.draw(x) for x in u], belief) < 1e-6


# ---------------------------------------------------------------- choices


def node_with(
    fresh: list[float], again: list[float], low: float = 0.0, high: float = 1.0
) -> tuple[Tree, Node]:
    """A node with one child for each of `fresh`; `again` all went on in the first."""
    tree = Tree(1.0)
    for k, score in enumerate(fresh):
        child = Node(0, tree.root, visits=1)
        tree.root.children.append(child)
        tree.root.visits += 1
        leaf = Node(1, child, visits=1)
        child.children.append(leaf)
        tree.finish(leaf, score)
        for more in again if k == 0 else ():
            tree.root.visits += 1
            child.visits += 1
            leaf = Node(1, child, visits=1)
            child.children.append(leaf)
            tree.finish(leaf, more)
    tree.low, tree.high = low, high
    return tree, tree.root


def beats(a: Belief, b: Belief) -> float:
    """P(a draw of a >= a draw of b), by numerical integration of the two laws of Student."""
    laws = [stats.t(x.nu, x.m, math.sqrt(x.tau2 / x.kappa)) for x in (a, b)]
    u = (np.arange(20000) + 0.5) / 20000
    return float(laws[1].cdf(laws[0].ppf(u)).mean())


class Certain(Thompson):
    """The broken twin: it compares means, and draws nothing."""

    def wider(self, node: Node, tree: Tree, key: Key) -> bool:
        new, on = self.belief(node.fresh, 0, tree), self.belief(node.again, 0, tree)
        return new.m >= on.m


@pytest.mark.parametrize(
    ("fresh", "again", "unit", "start"),
    [([0.3], [], 1.0, 0.0), ([0.2, 0.6], [0.7], 1.0, 0.0), ([0.2, 0.6, 0.4], [0.5, 0.6, 0.9], 40.0, -7.0)],
)
def test_wider_as_often_as_the_beliefs_say(
    fresh: list[float], again: list[float], unit: float, start: float
) -> None:
    """The verifier's unit and origin do not matter."""
    scores = [[start + unit * s for s in some] for some in (fresh, again)]
    tree, root = node_with(*scores, low=start, high=start + unit)
    n, p = 4000, beats(PRIOR.given(tally(fresh)), PRIOR.given(tally(again)))
    tolerance = 4 * math.sqrt(p * (1 - p) / n)
    shares = [
        sum(rule.wider(root, tree, Key((i,))) for i in range(n)) / n
        for rule in (Thompson(PRIOR), Certain(PRIOR))
    ]
    assert abs(shares[0] - p) < tolerance
    assert abs(shares[1] - p) > tolerance


def test_children_are_picked_as_often_as_the_beliefs_say() -> None:
    tree, root = node_with([0.5, 0.45], [0.9, 0.2])
    p = beats(PRIOR.given(tally([0.5, 0.9, 0.2])), PRIOR.given(tally([0.45])))
    n, ready = 4000, ReadyChildren(root.children)
    picked = sum(Thompson(PRIOR).pick(ready, tree, Key((i,))) is root.children[0] for i in range(n))
    assert abs(picked / n - p) < 4 * math.sqrt(p * (1 - p) / n)
    # Visits under way make surer: the law changes as if they had come out as expected.
    root.children[1].visits += 5
    ready.change(1)
    sure = beats(PRIOR.given(tally([0.5, 0.9, 0.2])), PRIOR.given(tally([0.45])).expecting(5))
    assert abs(sure - p) > 8 * math.sqrt(p * (1 - p) / n)
    picked = sum(Thompson(PRIOR).pick(ready, tree, Key((i,))) is root.children[0] for i in range(n))
    assert abs(picked / n - sure) < 4 * math.sqrt(sure * (1 - sure) / n)


def test_new_children_and_later_visits_are_counted_apart() -> None:
    """Against lists that are kept by hand while a tree grows at random."""
    rng, tree = random.Random(1), Tree(1.0)
    inner, kept = [tree.root], dict[Node, tuple[list[float], list[float]]]()
    for _ in range(80):
        at = rng.choice(inner)
        node, made = at, {at}
        while node.level < 3:
            child = Node(node.level + 1, node)
            node.children.append(child)
            made.add(node)
            node = child
            inner += [node] if node.level < 3 else []
        reward = rng.random()
        tree.finish(node, reward)
        for passed in list(node.path())[1:]:
            fresh, again = kept.setdefault(passed, ([], []))
            (fresh if passed in made else again).append(reward)
    for node, (fresh, again) in kept.items():
        for found, told in ((node.fresh, fresh), (node.again, again), (node.seen, fresh + again)):
            wanted = tally(told)
            assert (found.count, found.mean) == (wanted.count, pytest.approx(wanted.mean, abs=1e-12))
            assert found.squares == pytest.approx(wanted.squares, abs=1e-12)


# ---------------------------------------------------------------- the sampler


def test_it_widens_and_deepens() -> None:
    made = run(AbMcts(60), steps=10).searches[0]
    origins = [e.candidate.origin for e in made.finals]
    assert 10 < origins.count("branch") < 58  # neither best of N nor one line
    assert origins.count("prior") > 5


def test_policies_may_be_mixed() -> None:
    for options in ({"policy": "uct"}, {"widen": "practical"}, {"widen": (2.0, 0.5), "policy": "sample"}):
        search = run(AbMcts(**options), steps=10, budget=Budget(nfe=200)).searches[0]
        assert 190 < search.spent <= 200
    assert sampler_options.typed("sampler", "ab_mcts", AbMcts, {"prior": "0.5,1,1,.1"}) == {
        "prior": (0.5, 1.0, 1.0, 0.1)
    }


def test_it_beats_fresh_noise_on_average() -> None:
    tree, plain = (
        torch.tensor([run(s, steps=10, budget=Budget(nfe=300), seed=i).winners[0].total for i in range(16)])
        for s in (AbMcts(), BestOfN())
    )
    assert float((tree - plain).mean()) > 0


@pytest.mark.parametrize(
    "options",
    [{"prior": (0, 1, 1)}, {"prior": (0, 0, 1, 1)}, {"prior": (math.nan, 1, 1, 1)}, {"widen": "wide"}],
)
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        AbMcts(**options)
