"""What a tree of chunks needs of whatever makes the chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from genscale.chunks.nodes import Node
from genscale.chunks.shape import Costs
from genscale.engine.ledger import Ledger


@dataclass(frozen=True)
class Grown:
    """The candidates that continue one state, and the NFE spent on them."""

    children: list[Node]
    nfe: int


class ChunkSource(Protocol):
    """Makes the candidates of every depth.

    overlap: frames at the begin of a chunk that repeat the end of the state it continues. ledger: of all chunks.
    seed: of the tree.
    """

    overlap: int
    ledger: Ledger

    @property
    def seed(self) -> int | None: ...

    def costs(self) -> Costs:
        """What every depth costs. UsageError, before anything is spent, for what cannot be done."""
        ...

    def grow(self, state: Node | None, depth: int, nfe: int | None) -> Grown:
        """The candidates of a depth for one state. nfe: limit, never exceeded; None: no limit."""
        ...

    def joined(self, node: Node) -> tuple[Any, Tensor]:
        """The whole video of a node, in the form that the user asked for, and as pixels [frames, 3, h, w]."""
        ...


def add_ledger(total: Ledger, part: Ledger) -> None:
    """Add the counts of one search to those of all."""
    total.evaluations += part.evaluations
    total.probes += part.probes
    total.backwards += part.backwards
    total.decodes += part.decodes
    for name, count in part.verifier_calls.items():
        total.count_scores(name, count)
    for kind, seconds in part.seconds.items():
        total.add_seconds(kind, seconds)


def texts_of_path(prompts: Sequence[str]) -> str:
    """What a video of these chunks shows, as one text: the prompts in order, equal neighbours once."""
    different = [p for i, p in enumerate(prompts) if i == 0 or p != prompts[i - 1]]
    return ", then ".join(different)
