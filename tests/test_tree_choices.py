"""A tree keeps up what its choices depend on; the oracle is a scan over all children."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import special

from genscale.algorithms.ready_children import ReadyChildren
from genscale.algorithms.search_tree import Node, Tree, boltzmann, soft_mean, values
from genscale.algorithms.tree_policies import Sample, Thompson, Uct
from genscale.algorithms.tree_search import Growth
from genscale.key import Key
from genscale.numerics.thompson import _bound, largest_draw
from genscale.samplers.ab_mcts import AbMcts
from genscale.samplers.dts import Dts
from genscale.samplers.dts_star import DtsStar
from tests.analytic import run

STEPS = 10
SEARCHES = {"dts_star": DtsStar(rollouts=80), "ab_mcts": AbMcts(rollouts=80)}
LONG = {
    "dts": Dts(rollouts=150),
    "dts_star of 300": DtsStar(rollouts=300),
    "dts_star, soft": DtsStar(rollouts=150, strength=3.0),
    "ab_mcts of 300": AbMcts(rollouts=300),
    "ab_mcts by uct": AbMcts(rollouts=150, policy="uct"),
}
EVERY = SEARCHES | LONG


def scanned(policy: Any, ready: Sequence[Node], tree: Tree, key: Key) -> Node:
    """The child that a scan over all of them chooses, with values found from scratch."""
    value = values(tree.root, tree.strength)
    if isinstance(policy, Sample):
        return boltzmann(ready, value, tree.strength, float(key.uniform(1)))
    if isinstance(policy, Thompson):
        u = key.fold("pick").uniform(len(ready)).tolist()
        draws = [
            policy.belief(c.seen, c.visits - c.seen.count, tree).draw(x)
            for c, x in zip(ready, u, strict=True)
        ]
        return ready[draws.index(max(draws))]
    low, high = tree.median, tree.high
    spread = high - low if high > low else 1.0
    total = math.log(max(sum(n.visits for n in ready), 2))
    return max(
        ready,
        key=lambda n: (
            (value.get(n, high) - low) / spread + policy.explore * math.sqrt(total / max(n.visits, 1))
        ),
    )


def differing(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(choices, those that are not the scan's) of a search; whether to widen counts as a choice."""
    kinds, counts = (Uct, Sample, Thompson), [0, 0]
    descend, grown = Growth._descend, list[Growth]()

    def descending(self: Growth, key: Key) -> Node:
        grown[:] = [self]
        return descend(self, key)

    def checked(pick: Any) -> Any:
        def picked(self: Any, ready: ReadyChildren, tree: Tree, key: Key) -> Node:
            chosen: Node = pick(self, ready, tree, key)
            assert chosen.parent is not None
            last = len(grown[0].steps)
            scan = [c for c in chosen.parent.children if c.state is not None and c.level < last]
            counts[0] += 1
            counts[1] += scan != ready.nodes or scanned(self, scan, tree, key) is not chosen
            return chosen

        return picked

    wider = Thompson.wider

    def widened(self: Thompson, node: Node, tree: Tree, key: Key) -> bool:
        counts[0] += 1
        counts[1] += len(node.children) - len(node.worths) != sum(not c.seen.count for c in node.children)
        return wider(self, node, tree, key)

    monkeypatch.setattr(Growth, "_descend", descending)
    monkeypatch.setattr(Thompson, "wider", widened)
    for kind in kinds:
        monkeypatch.setattr(kind, "pick", checked(kind.pick))
    run(sampler, steps=STEPS)
    tree = grown[0].tree
    assert tree.value == values(tree.root, tree.strength)
    return counts[0], counts[1]


@pytest.mark.parametrize("name", [*SEARCHES, *(pytest.param(n, marks=pytest.mark.slow) for n in LONG)])
def test_choices_are_those_of_a_scan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choices, differ = differing(EVERY[name], monkeypatch)
    assert choices > 100
    assert differ == 0


@pytest.mark.parametrize("name", SEARCHES)
def test_a_tree_that_forgets_changes_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadyChildren, "change", lambda self, place: None)
    assert differing(SEARCHES[name], monkeypatch)[1] > 5


def test_values_are_entered_in_the_order_of_the_children() -> None:
    """Also where a later child is finished first, as in no search."""
    tree, rewards = Tree(0.7), [3.0, 1.0, 4.0, 1.5, 9.0]
    tree.root.children = [Node(0, tree.root) for _ in rewards]
    for i in (2, 4, 0, 3, 1):
        tree.finish(tree.root.children[i], rewards[i])
        tree.open(tree.root.children[i])
    assert tree.root.worths == rewards
    assert tree.root.ready.nodes == tree.root.children
    assert [c.rank for c in tree.root.children] == [c.place for c in tree.root.children] == list(range(5))
    assert tree.value[tree.root] == soft_mean(rewards, 0.7)
    gone = tree.root.children[1]
    tree.root.ready.numbers(lambda c: (c.reward,))
    tree.cut(gone)
    assert tree.root.ready.numbers(lambda c: (c.reward,))[:, 0].tolist() == [3.0, 4.0, 1.5, 9.0]
    assert [c.place for c in tree.root.children] == list(range(4))


def test_the_bound_is_above_the_quantile() -> None:
    u = np.concatenate([np.random.default_rng(0).random(4000), 1 - np.logspace(-1, -15, 200), [0.0, 0.5]])
    for nu in (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.5, 30.0):
        some = np.full(len(u), nu)
        quantile = special.stdtrit(some, u)
        assert (_bound(some, u) >= quantile).all()
        if nu in (1.0, 2.0, 4.0):  # there it is the quantile itself, but for the margin
            above = (u > 0.5) & (u < 1 - 1e-9)
            assert _bound(some, u)[above] == pytest.approx(quantile[above], rel=1e-5, abs=1e-5)
        assert not (_bound(some, u) * 0.5 >= quantile).all() or nu < 1  # the broken twin


@pytest.mark.parametrize("n", [1, 5, 8, 9, 300])
def test_the_largest_draw_is_found(n: int) -> None:
    rng, wrong = np.random.default_rng(n), 0
    for _ in range(200):
        m, scale = rng.random(n), 0.3 * rng.random(n)
        nu, u = rng.integers(1, 9, n).astype(float), rng.random(n)
        draws = m + scale * special.stdtrit(nu, u)
        assert largest_draw(m, scale, nu, u) == draws.argmax()
        wrong += int((m + scale * special.stdtrit(nu + 3, u)).argmax() != draws.argmax())
    assert wrong > 0 or n == 1
    same = np.full(n, 0.5)
    assert largest_draw(same, same, 4 * same, same) == 0
