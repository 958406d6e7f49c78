"""Policies of a tree search: which child to select, and when to make a new one instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from genscale.algorithms.search_tree import Node, Tree, Widening, boltzmann, uct
from genscale.key import Key
from genscale.numerics.thompson import Belief, Tally

# (factor, power) by name. With "paper" the first 36 rollouts are best of N; "practical" descends after 2.
WIDENINGS = {"practical": (1.0, 0.5), "paper": (2.0, 0.8)}


class Select(Protocol):
    def pick(self, ready: Sequence[Node], tree: Tree, key: Key) -> Node:
        """One of the children of a node, of those whose states are known."""


class Widen(Protocol):
    def wider(self, node: Node, tree: Tree, key: Key) -> bool:
        """Whether a node that has children gets one more."""


@dataclass(frozen=True)
class Uct:
    explore: float

    def pick(self, ready: Sequence[Node], tree: Tree, key: Key) -> Node:
        return uct(ready, tree.value, self.explore, tree.median, tree.high)


@dataclass(frozen=True)
class Sample:
    def pick(self, ready: Sequence[Node], tree: Tree, key: Key) -> Node:
        return boltzmann(ready, tree.value, tree.strength, float(key.uniform(1)))


@dataclass(frozen=True)
class Progressive:
    rule: Widening

    def wider(self, node: Node, tree: Tree, key: Key) -> bool:
        return self.rule.open(node)


@dataclass(frozen=True)
class Thompson:
    """Thompson sampling of adaptive branching (AB-MCTS-A, Inoue et al. 2025, arXiv 2503.04412).

    A node is widened where a draw for new children (by the first sample of each child that it has) is not below one for
    going on (by the later samples through its children); a child is picked by a draw for each (by all samples through
    it). The prior is for scores in [0, 1]: they are mapped there by the range seen in this tree. An unfinished
    visit counts as a sample with the expected score.
    """

    prior: Belief

    def wider(self, node: Node, tree: Tree, key: Key) -> bool:
        u = key.fold("widen").uniform(2).tolist()
        unborn = sum(not c.seen.count for c in node.children)
        others = node.visits - node.seen.count - unborn
        new, on = (self.belief(node.fresh, unborn, tree), self.belief(node.again, others, tree))
        return new.draw(u[0]) >= on.draw(u[1])

    def pick(self, ready: Sequence[Node], tree: Tree, key: Key) -> Node:
        u = key.fold("pick").uniform(len(ready)).tolist()
        draws = [
            self.belief(c.seen, c.visits - c.seen.count, tree).draw(x) for c, x in zip(ready, u, strict=True)
        ]
        return ready[draws.index(max(draws))]

    def belief(self, seen: Tally, under_way: int, tree: Tree) -> Belief:
        spread = tree.high - tree.low or 1.0
        return self.prior.given(seen.scaled(tree.low, spread)).expecting(max(under_way, 0))
