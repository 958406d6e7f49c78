"""What a tree of chunks found: its videos, scores, costs, and every candidate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from genscale import __version__
from genscale.chunks.nodes import Node
from genscale.chunks.output_forms import images_of
from genscale.chunks.shape import TreeShape
from genscale.engine.ledger import Ledger
from genscale.errors import UsageError
from genscale.report.film_strip import strip
from genscale.report.video_files import write_video
from genscale.storage.durable_files import save_bytes, save_file

RECORD = "tree.json"
RATE = 8.0  # frames per second of saved videos


@dataclass(frozen=True, repr=False)
class ChunkTree:
    """All that a tree of chunks found.

    nodes: every finished candidate of every depth, in order. Those that were not continued have scores, but no frames.
    leaves: the videos found, best first. nfe: spent on all chunks, as the budget counts it. plain_nfe: of one video
    without a search. ledger: counts of all searches together, those of probes included. seed: of the tree.
    """

    prompts: tuple[str, ...]
    shape: TreeShape
    nodes: tuple[Node, ...]
    leaves: tuple[Node, ...]
    nfe: int
    plain_nfe: int
    ledger: Ledger
    seed: int | None
    videos: tuple[Tensor, ...]

    @property
    def best(self) -> Node:
        """The last chunk of the best video; `best.line` are all of its chunks."""
        return self.leaves[0]

    def depth(self, depth: int) -> list[Node]:
        """The candidates of a depth, from 0, best first."""
        return sorted((n for n in self.nodes if n.depth == depth), key=lambda n: -n.value)

    def as_dict(self) -> dict[str, Any]:
        return {
            "genscale": __version__,
            "prompts": list(self.prompts),
            "seed": self.seed,
            "branches": list(self.shape.branches),
            "survivors": list(self.shape.survivors),
            "nfe": self.nfe,
            "plain_nfe": self.plain_nfe,
            "found": [list(leaf.path) for leaf in self.leaves],
            "nodes": [node.as_dict() for node in self.nodes],
            "ledger": self.ledger.as_dict(),
        }

    def save(self, folder: str | Path, rate: float = RATE) -> Path:
        """Write the videos found (best.mp4 and best.gif, then 2.mp4, ...), frames of the best (best.png) and tree.json.

        rate: frames a second. UsageError: the folder holds another tree, or cannot be written to.
        """
        target = Path(folder).expanduser()
        record = json.loads(json.dumps(self.as_dict()))
        try:
            _refuse_another(target / RECORD, record)
            target.mkdir(parents=True, exist_ok=True)
            for place, video in enumerate(self.videos, 1):
                frames = images_of(video)
                name = "best" if place == 1 else str(place)
                kinds = ("mp4", "gif") if place == 1 else ("mp4",)
                for kind in kinds:
                    write = partial(write_video, kind=kind, frames=frames, rate=rate)
                    save_file(target / f"{name}.{kind}", write)
                if place == 1:
                    save_file(target / "best.png", partial(strip(frames, 16).save, format="PNG"))
            save_bytes(target / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        except OSError as error:
            raise UsageError(
                f"cannot write to '{target}' ({error.strerror}): choose another folder."
            ) from error
        return target

    def __repr__(self) -> str:
        return (
            f"ChunkTree({self.shape.chunks} chunks, {len(self.nodes)} candidates, {len(self.leaves)} videos, "
            f"{self.nfe} NFE)"
        )


def _refuse_another(path: Path, record: dict[str, Any]) -> None:
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    same = ("prompts", "seed", "branches", "survivors", "found")
    if not isinstance(found, dict) or any(found.get(name) != record[name] for name in same):
        raise UsageError(f"'{path.parent}' holds another tree: choose another folder.")
