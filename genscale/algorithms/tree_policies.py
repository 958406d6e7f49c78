"""Policies of a tree search: which child to select, and when to make a new one instead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from genscale.algorithms.ready_children import ReadyChildren
from genscale.algorithms.search_tree import Node, Tree, Widening, boltzmann, uct
from genscale.key import Key
from genscale.numerics.thompson import Belief, Tally, largest_draw

# (factor, power) by name. With "paper" the first 36 rollouts are best of N; with "practical" only the first 2 are.
WIDENINGS = {"practical": (1.0, 0.5), "paper": (2.0, 0.8)}


class Select(Protocol):
    def pick(self, ready: ReadyChildren, tree: Tree, key: Key) -> Node:
        """One of `ready`, the children of a node whose states are known."""


class Widen(Protocol):
    def wider(self, node: Node, tree: Tree, key: Key) -> bool:
        """Whether a node that has children gets one more child."""


@dataclass(frozen=True)
class Uct:
    explore: float

    def pick(self, ready: ReadyChildren, tree: Tree, key: Key) -> Node:
        known = ready.numbers(lambda c: (tree.value.get(c, math.nan), c.visits))
        chosen: Node = ready.nodes[uct(known[:, 0], known[:, 1], self.explore, tree.median, tree.high)]
        return chosen


@dataclass(frozen=True)
class Sample:
    def pick(self, ready: ReadyChildren, tree: Tree, key: Key) -> Node:
        return boltzmann(ready.nodes, tree.value, tree.strength, float(key.uniform(1)))


@dataclass(frozen=True)
class Progressive:
    rule: Widening

    def wider(self, node: Node, tree: Tree, key: Key) -> bool:
        return self.rule.open(node)


@dataclass(frozen=True)
class Thompson:
    """Thompson sampling of adaptive branching (AB-MCTS-A, Inoue et al. 2025, arXiv 2503.04412).

    A node gets a new child if a draw of the mean score of new children is at least a draw of the mean score of existing
    ones. The first posterior uses the first sample of each child, and the second uses the later samples through the
    children. To pick a child, one value is drawn for each from the posterior of all samples through it, and the largest
    wins. The prior is for scores in [0, 1], so scores are mapped there by the range of rewards in this tree. An
    unfinished visit counts as a sample with the expected score.
    """

    prior: Belief

    def wider(self, node: Node, tree: Tree, key: Key) -> bool:
        u = key.fold("widen").uniform(2).tolist()
        unborn = len(node.children) - len(node.worths)
        others = node.visits - node.seen.count - unborn
        new, on = (self.belief(node.fresh, unborn, tree), self.belief(node.again, others, tree))
        return new.draw(u[0]) >= on.draw(u[1])

    def pick(self, ready: ReadyChildren, tree: Tree, key: Key) -> Node:
        def numbers(c: Node) -> tuple[float, ...]:
            belief = self.belief(c.seen, c.visits - c.seen.count, tree)
            return belief.m, math.sqrt(belief.tau2 / belief.kappa), belief.nu

        known = ready.numbers(numbers, stamp=(tree.low, tree.high))
        u = key.fold("pick").uniform(len(ready)).numpy()
        chosen: Node = ready.nodes[largest_draw(known[:, 0], known[:, 1], known[:, 2], u)]
        return chosen

    def belief(self, seen: Tally, under_way: int, tree: Tree) -> Belief:
        spread = tree.high - tree.low or 1.0
        return self.prior.given(seen.scaled(tree.low, spread)).expecting(max(under_way, 0))
