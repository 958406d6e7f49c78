"""The nodes of a tree of chunks: a state is the chunks on the way from the root to a node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from genscale.key import Key
from genscale.protocol.particles import OWN


@dataclass(eq=False)
class Node:
    """One chunk that continues a state.

    path: candidate ids from the root to this chunk. parent: None for first chunks. scores: by verifier, of this chunk.
    value: what ranked it among all candidates of its depth. held_out: scores that only measure. survived: whether it
    was continued, or is among the videos found. frames: what the pipeline or the callable made, once `show` has been
    called; pixels: the same, [frames, 3, h, w] in [0, 1] on the CPU.
    """

    path: tuple[int, ...]
    parent: Node | None
    scores: dict[str, float]
    make: Callable[[], tuple[Any, Tensor]] | None
    held_out: dict[str, float] = field(default_factory=dict)
    value: float = 0.0
    survived: bool = False
    frames: Any = None
    pixels: Tensor | None = None

    @property
    def depth(self) -> int:
        return len(self.path) - 1

    @property
    def line(self) -> tuple[Node, ...]:
        """The nodes from the first chunk to this one."""
        return (self,) if self.parent is None else (*self.parent.line, self)

    @property
    def is_own(self) -> bool:
        """Whether it lies on the chain that the pipeline makes without a search."""
        return is_own(self.path)

    def show(self) -> None:
        """Decode its frames, and forget how they were made."""
        if self.make is not None:
            self.frames, self.pixels = self.make()
            self.make = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": list(self.path), "value": self.value, "scores": self.scores, "held_out": self.held_out,
            "survived": self.survived,
        }  # fmt: skip


def is_own(path: tuple[int, ...]) -> bool:
    return all(candidate == OWN for candidate in path)


def seed_of(root: int, path: tuple[int, ...]) -> int:
    """The seed of what continues a path, in [0, 2**53), by the seed of the whole tree."""
    words = (n if n >= 0 else str(n) for n in path)
    return int(Key.from_seed(root).fold("chunk", *words).uniform(1)[0].item() * 2**53)
