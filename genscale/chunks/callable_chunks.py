"""Chunks made by any function that continues a video, such as an outer loop over chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genscale.chunks.chunk_source import Grown, texts_of_path
from genscale.chunks.nodes import Node, is_own, seed_of
from genscale.chunks.output_forms import joined_frames, pixels_of
from genscale.chunks.shape import Costs, TreeShape
from genscale.chunks.stages import Stages
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_roles import VerifierSet
from genscale.media import Media

Extend = Callable[[str, Any, torch.Generator], Any]


@dataclass
class CallableChunks:
    """Makes chunks by `extend(prompt, frames, generator)`, called once for each candidate.

    frames is None for the first chunk, then what `extend` returned for the chunks so far, joined. nfe: of one call.
    generator: the user's, which the plain chain of calls draws from; every other candidate has its own, by its path.
    """

    extend: Extend
    shape: TreeShape
    stages: Stages
    held_out: VerifierSet
    prompts: Sequence[str]
    overlap: int
    nfe: int
    generator: torch.Generator
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def seed(self) -> int:
        return int(self.generator.initial_seed())

    def costs(self) -> Costs:
        for depth, prompt in enumerate(self.prompts):
            text = texts_of_path(self.prompts[: depth + 1])
            for member in (*self.stages.members(depth, None, 0, text), *self.held_out.members):
                member.prepare([prompt], torch.device("cpu"))
        each = (self.nfe,) * self.shape.chunks
        return Costs(each, tuple(self.nfe * branches for branches in self.shape.branches))

    def grow(self, state: Node | None, depth: int, nfe: int | None) -> Grown:
        count = self.shape.branches[depth]
        count = count if nfe is None else min(count, nfe // self.nfe)
        before = (None, None) if state is None else self.joined(state)
        text = texts_of_path(self.prompts[: depth + 1])
        members = self.stages.members(depth, before[1], self.overlap, text)
        verifiers = VerifierSet(members, self.stages.ensemble)
        children = []
        for candidate in range(count):
            path = (*(() if state is None else state.path), candidate)
            with self.ledger.clock("denoise"):
                frames = self.extend(self.prompts[depth], _given(before[0]), self._generator(path))
            self.ledger.evaluations += self.nfe
            pixels = pixels_of(frames)
            label = [f"candidate {'-'.join(map(str, path))}"]
            scores, measured = (
                judges.named(judges.score(Media(pixels[None]), [self.prompts[depth]], label, self.ledger)[0])
                for judges in (verifiers, self.held_out)
            )
            children.append(Node(path, state, scores, None, measured, frames=frames, pixels=pixels))
        return Grown(children, count * self.nfe)

    def _generator(self, path: tuple[int, ...]) -> torch.Generator:
        if is_own(path):
            return self.generator
        seed = seed_of(self.seed, path)
        return torch.Generator(self.generator.device).manual_seed(seed)

    def joined(self, node: Node) -> tuple[Any, Tensor]:
        frames = joined_frames([part.frames for part in node.line], self.overlap)
        return frames, pixels_of(frames)


def _given(frames: Any) -> Any:
    """What `extend` is given; a copy of a list, since it may append to it."""
    return list(frames) if isinstance(frames, list) else frames
