"""The children of one node that a descent may go on to, and numbers of each, computed again only after a change.

A tree of 10,000 rollouts has nodes with hundreds of children, and a rollout changes a few of them. Policies compare the
numbers of all children as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class ReadyChildren:
    """Nodes in the order of their parent's children.

    nodes: those whose states are known.
    """

    def __init__(self, nodes: Sequence[Any] = ()) -> None:
        self.nodes = list(nodes)
        self._changed = set(range(len(self.nodes)))
        self._table: Numbers = np.zeros((0, 0))
        self._stamp: object = None

    def __len__(self) -> int:
        return len(self.nodes)

    def insert(self, place: int, node: Any) -> None:
        """Add a node at a place in the order."""
        self.nodes.insert(place, node)
        self._changed |= set(range(place, len(self.nodes)))

    def pop(self, place: int) -> None:
        """Take a node out."""
        del self.nodes[place]
        self._changed = {i for i in self._changed if i < place} | set(range(place, len(self.nodes)))

    def change(self, place: int) -> None:
        """Say that the numbers of a node are no longer what they were."""
        self._changed.add(place)

    def change_all(self) -> None:
        self._changed = set(range(len(self.nodes)))

    def numbers(self, of: Callable[[Any], tuple[float, ...]], stamp: object = None) -> Numbers:
        """What `of` says of each node, [nodes, numbers]. It is asked only about nodes that have changed.

        of: the same function at every call. stamp: of what all numbers depend on; with another one all are asked for.
        """
        if stamp != self._stamp:
            self._stamp = stamp
            self.change_all()
        for place in self._changed:
            row = of(self.nodes[place])
            if place >= len(self._table):
                before, most = self._table.reshape(-1, len(row)), max(2 * len(self._table), len(self.nodes))
                self._table = np.concatenate([before, np.zeros((most - len(before), len(row)))])
            self._table[place] = row
        self._changed.clear()
        return self._table[: len(self.nodes)]
