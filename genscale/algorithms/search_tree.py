"""A search tree over denoising states: which node to visit, when to widen it, and the value of each node.

This is bookkeeping only: no latents are made and no model is called. Values come from finished samples alone, never
from previews (Jain et al. 2025, "Diffusion Tree Sampling", arXiv 2506.20701, section 4).
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genscale.algorithms.ready_children import Numbers, ReadyChildren
from genscale.key import Key
from genscale.numerics.thompson import Tally


@dataclass(eq=False)
class Node:
    """A state at a branching level, a finished sample (level = `leaf`), or the root, whose children start from fresh
    noise (level -1).

    visits: number of rollouts through the node, unfinished ones included. reward: score of a finished sample. state:
    data of the search. seen: statistics of the rewards of all finished rollouts through the node. fresh: of those that
    created a child of it. again: of those that continued through an existing child.
    A `Tree` keeps up: worths, the values of the children that have one, in their order; ready, the children that a
    descent may go on to; rank and place, where the node is in these lists of its parent.
    """

    level: int
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    reward: float | None = None
    state: Any = None
    label: int = -1
    seen: Tally = field(default_factory=Tally)
    fresh: Tally = field(default_factory=Tally)
    again: Tally = field(default_factory=Tally)
    worths: list[float] = field(default_factory=list)
    ready: ReadyChildren = field(default_factory=ReadyChildren)
    rank: int | None = None
    place: int | None = None

    def path(self) -> Iterator[Node]:
        """This node and its ancestors, up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def nodes(self) -> Iterator[Node]:
        """This node and all its descendants, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)

    def leaves(self) -> list[Node]:
        """The finished samples below this node."""
        return [n for n in self.nodes() if n.reward is not None]


@dataclass(frozen=True)
class Widening:
    """Progressive widening: a node may have at most `factor` visits^`power` children (Couetoux et al. 2011)."""

    factor: float = 1.0
    power: float = 0.5

    def open(self, node: Node) -> bool:
        """Whether a node may have one more child."""
        return len(node.children) < self.factor * math.pow(max(node.visits, 1), self.power)


def values(root: Node, strength: float) -> dict[Node, float]:
    """The value of each node: (1 / strength) log mean_j exp(strength v_j) over its children (arXiv 2506.20701, eq. 9).

    The mean is unweighted, because children are drawn from the model itself. The value of a finished sample is its
    reward. strength: 0 gives the mean, inf the maximum. Nodes without a finished sample below them have no value and
    are left out.
    """
    found: dict[Node, float] = {}
    for node in reversed(list(root.nodes())):
        if node.reward is not None:
            found[node] = node.reward
            continue
        below = [found[c] for c in node.children if c in found]
        if below:
            found[node] = soft_mean(below, strength)
    return found


class Tree:
    """A root, and the values of the nodes below it, which are updated along the path of each finished sample.

    strength: of the backup, per unit of reward. value: the value of each node, as `values` would compute it from
        scratch. low, median, high: minimum, median and maximum of the rewards so far; 0 before the first.
    """

    def __init__(self, strength: float) -> None:
        self.root, self.strength = Node(-1), strength
        self.value: dict[Node, float] = {}
        self.low, self.high = 0.0, 0.0
        self._rewards: list[float] = []  # sorted

    @property
    def median(self) -> float:
        return self._rewards[len(self._rewards) // 2] if self._rewards else 0.0

    def finish(self, leaf: Node, reward: float) -> None:
        """Record a finished sample and update the values along its path."""
        insort(self._rewards, reward)
        self.low, self.high = (
            (min(self.low, reward), max(self.high, reward)) if self.value else (reward, reward)
        )
        leaf.reward = self.value[leaf] = reward
        child: Node | None = None
        for node in leaf.path():
            if child is not None:
                _note_worth(node, child, self.value[child])
                self.value[node] = soft_mean(node.worths, self.strength)
                (node.fresh if child.seen.count == 1 else node.again).add(reward)
            node.seen.add(reward)
            _changed(node)
            child = node

    def visit(self, node: Node, times: int = 1) -> None:
        """Count a rollout through a node and its ancestors."""
        for passed in node.path():
            passed.visits += times
            _changed(passed)

    def open(self, node: Node) -> None:
        """Let descents go on to a node, whose state is known from here on."""
        parent = node.parent
        if parent is None or node.place is not None:
            return
        place = len(parent.ready) - _behind(parent, node, lambda c: c.place is not None)
        parent.ready.insert(place, node)
        _number_from(parent, place)

    def cut(self, node: Node) -> None:
        """Take a node without a finished sample out of the children of its parent."""
        parent = node.parent
        if parent is None:
            return
        parent.children.remove(node)
        if node.place is not None:
            parent.ready.pop(node.place)
            _number_from(parent, node.place)
            node.place = None

    def remove(self, leaf: Node) -> None:
        """Take out a rollout whose sample failed, with the states that only it has passed through."""
        child = leaf
        while (
            child.parent is not None and child.parent.parent is not None and len(child.parent.children) == 1
        ):
            child = child.parent
        assert child.parent is not None
        self.cut(child)
        self.visit(child.parent, -1)

    def retune(self, strength: float) -> None:
        """Recompute all values with another strength."""
        self.strength = strength
        self.value = values(self.root, strength)
        for node in self.root.nodes():
            valued = [c for c in node.children if c in self.value]
            node.worths = [self.value[c] for c in valued]
            for rank, child in enumerate(valued):
                child.rank = rank
            node.ready.change_all()


def _note_worth(parent: Node, child: Node, worth: float) -> None:
    """Enter the value of a child into its parent's list, at its place in the order of the children."""
    if child.rank is not None:
        parent.worths[child.rank] = worth
        return
    rank = len(parent.worths) - _behind(parent, child, lambda c: c.rank is not None)
    parent.worths.insert(rank, worth)
    for later in parent.children if rank + 1 < len(parent.worths) else ():
        if later.rank is not None and later.rank >= rank:
            later.rank += 1
    child.rank = rank


def _behind(parent: Node, child: Node, counts: Callable[[Node], bool]) -> int:
    """How many of the later children count. A new child is among the last ones, so this takes few steps."""
    found = 0
    for other in reversed(parent.children):
        if other is child:
            break
        found += counts(other)
    return found


def _number_from(parent: Node, place: int) -> None:
    for i, node in enumerate(parent.ready.nodes[place:], place):
        node.place = i


def _changed(node: Node) -> None:
    if node.place is not None and node.parent is not None:
        node.parent.ready.change(node.place)


def soft_mean(rewards: Sequence[float], strength: float) -> float:
    top = max(rewards)
    if math.isinf(strength):
        return top
    if strength == 0:
        return sum(rewards) / len(rewards)
    mean = sum(math.exp(strength * (r - top)) for r in rewards) / len(rewards)
    return top + math.log(mean) / strength


def boltzmann(nodes: Sequence[Node], value: dict[Node, float], strength: float, u: float) -> Node:
    """A child drawn with probability proportional to exp(strength v). Children without a value get the best value."""
    known = [value[n] for n in nodes if n in value]
    top = max(known, default=0.0)
    if math.isinf(strength):
        return max(nodes, key=lambda n: value.get(n, top))
    weights = [math.exp(strength * (value.get(n, top) - top)) for n in nodes]
    mark = u * sum(weights)
    for node, weight in zip(nodes, weights, strict=True):
        mark -= weight
        if mark < 0:
            return node
    return nodes[-1]


def uct(value: Numbers, visits: Numbers, bonus: float, low: float, high: float) -> int:
    """The first child with the largest v + bonus sqrt(log N_parent / N_child) (Kocsis & Szepesvari 2006).

    value, visits: of each child [n]; NaN is a child without a value, which counts as `high`. Values are normalised so
    that `low` is 0 and `high` is 1, because the bonus is added to them.
    """
    spread = high - low if high > low else 1.0
    total = math.log(max(visits.sum(), 2))
    worth = (np.where(np.isnan(value), high, value) - low) / spread
    return int((worth + bonus * np.sqrt(total / np.maximum(visits, 1))).argmax())


def draw(root: Node, strength: float, key: Key) -> Node | None:
    """A finished sample drawn by Boltzmann descent from the root; None if there is none."""
    value, node = values(root, strength), root
    depth = 0
    while node.reward is None:
        live = [c for c in node.children if c in value]
        if not live:
            return None
        node = boltzmann(live, value, strength, float(key.fold(depth).uniform(1)))
        depth += 1
    return node


def probabilities(root: Node, strength: float) -> dict[Node, float]:
    """The probability of every node under Boltzmann descent from the root."""
    value, chance = values(root, strength), {root: 1.0}
    for node in root.nodes():
        live = [c for c in node.children if c in value]
        if not live or node not in chance:
            continue
        top = max(value[c] for c in live)
        if math.isinf(strength):
            weights = [float(value[c] == top) for c in live]
        else:
            weights = [math.exp(strength * (value[c] - top)) for c in live]
        for child, weight in zip(live, weights, strict=True):
            chance[child] = chance[node] * weight / sum(weights)
    return chance
