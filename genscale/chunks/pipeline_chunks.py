"""Chunks made by a diffusers pipeline, each a search of its own that continues the frames before it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genscale.chunks.chunk_source import Grown, add_ledger, texts_of_path
from genscale.chunks.nodes import Node, is_own, seed_of
from genscale.chunks.output_forms import FORMS, images_of, in_form
from genscale.chunks.shape import Costs, TreeShape
from genscale.chunks.stages import Stages
from genscale.chunks.tree_settings import Continuation
from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_roles import Roles, VerifierSet
from genscale.errors import UsageError
from genscale.pipelines.call_signature import COUNTS, call_chain, call_signature
from genscale.pipelines.scale import Scaled
from genscale.results.result import SearchResult

PLACEHOLDER = (
    512,
    512,
)  # size of the picture that a continuing chunk is planned with, where the call says none


def last_frame(frames: list[Image.Image]) -> dict[str, Any]:
    """How an image-to-video pipeline continues: from the last frame."""
    return {"image": frames[-1]}


@dataclass
class PipelineChunks:
    """Makes chunks by the searches of `scaled`, one for each depth.

    held_out: verifiers that only measure. call: the arguments of all calls, without prompt. continuation: from the
    frames of a state to arguments of the call that continues it. form: of the frames given back. out: folder with an
    archive for each search.
    """

    scaled: Sequence[Scaled]
    shape: TreeShape
    stages: Stages
    held_out: VerifierSet
    prompts: Sequence[str]
    call: dict[str, Any]
    continuation: Continuation
    overlap: int
    form: str
    out: Path | None = None
    ledger: Ledger = field(default_factory=Ledger)
    seed: int | None = None  # of the tree; known after the first search
    each: tuple[int, ...] = ()  # NFE of one candidate of each depth; known after `costs`

    # ---------------------------------------------------------------- before anything is spent

    def costs(self) -> Costs:
        each: list[int] = []
        search: list[int] = []
        for depth in range(self.shape.chunks):
            if depth > 1 and self._alike(depth, depth - 1):
                self._prepare(depth)
                each.append(each[-1])
                search.append(search[-1])
                continue
            plan = self._search(depth, None, None).plan(**self._planned_call(depth))
            if plan.cost is None:
                raise UsageError(
                    "the sampler of the chunks runs until a budget ends it: give it a number of candidates."
                )
            each.append(plan.nfe_per_candidate)
            search.append(plan.cost)
        self.each = tuple(each)
        return Costs(self.each, tuple(search))

    def _alike(self, depth: int, other: int) -> bool:
        same = self.shape.branches[depth] == self.shape.branches[other]
        return same and self.scaled[depth].settings.pipe is self.scaled[other].settings.pipe

    def _prepare(self, depth: int) -> None:
        device = torch.device(getattr(self.scaled[depth].settings.pipe, "device", "cpu"))
        self._roles(depth, None).prepare([self.prompts[depth]], device)

    def _planned_call(self, depth: int) -> dict[str, Any]:
        call = self._arguments(depth)
        if depth:
            picture = Image.new("RGB", self._size(call), "gray")
            call |= self.continuation([picture] * int(call.get("num_frames") or 1))
        # Planning draws from the generator: not from the user's.
        generator = call.get("generator")
        device = generator.device if isinstance(generator, torch.Generator) else "cpu"
        if generator is not None or "generator" in call_signature(type(self._pipe(depth))).names:
            call["generator"] = torch.Generator(device).manual_seed(0)
        return call

    def _size(self, call: dict[str, Any]) -> tuple[int, int]:
        """Of the picture that a continuing chunk is planned with."""
        width, height, given = call.get("width"), call.get("height"), self.call.get("image")
        if width is not None and height is not None:
            return int(width), int(height)
        return given.size if isinstance(given, Image.Image) else PLACEHOLDER

    # ---------------------------------------------------------------- one search

    def grow(self, state: Node | None, depth: int, nfe: int | None) -> Grown:
        path = () if state is None else state.path
        call = self._arguments(depth, nfe)
        if state is not None:
            call |= self.continuation(self._images(state))
            if not is_own(path):
                call["generator"] = self._generator(path)
        found = self._search(depth, state, nfe).search(**call)
        add_ledger(self.ledger, found.ledger)
        self.seed = found.seed if self.seed is None else self.seed
        best = found.ranking(0)[: self.shape.branches[depth]]
        # In the order of their ids, so that ties do not depend on how the search ranked them.
        children = [self._node(found, entry, state) for entry in sorted(best, key=lambda e: e.candidate.id)]
        return Grown(children, found.searches[0].spent)

    def _search(self, depth: int, state: Node | None, nfe: int | None) -> Scaled:
        """The search at one state, with its verifiers, keys and limit."""
        settings = self.scaled[depth].settings
        path = () if state is None else state.path
        name = "-".join(map(str, path)) or "first"
        return Scaled(
            replace(
                settings,
                roles=self._roles(depth, state),
                budget=Budget(nfe=nfe),
                keep=self.shape.branches[depth],
                out=None if self.out is None else self.out / "chunks" / name,
                line=("chunk", *map(str, path)) if path else (),
            )
        )

    def _roles(self, depth: int, state: Node | None) -> Roles:
        frames = None if state is None else self._pixels(state)
        text = texts_of_path(self.prompts[: depth + 1])
        members = self.stages.members(depth, frames, self.overlap, text)
        ensemble = self.stages.ensemble if len(members) > 1 else "weighted"
        return Roles(search=VerifierSet(members, ensemble), held_out=self.held_out)

    def _arguments(self, depth: int, nfe: int | None = None) -> dict[str, Any]:
        call = {**self.call, "prompt": self.prompts[depth]}
        branches = self.shape.branches[depth]
        branches = branches if nfe is None else min(branches, nfe // self.each[depth])
        if not self.stages.any(depth) and branches > 1:
            # Without scores a search returns all of its candidates.
            names = call_signature(type(self._pipe(depth))).names
            count = next((name for name in COUNTS if name in names), COUNTS[0])
            call[count] = branches
        return call

    def _pipe(self, depth: int) -> Any:
        return self.scaled[depth].settings.pipe

    def _generator(self, path: tuple[int, ...]) -> torch.Generator:
        assert self.seed is not None
        given = self.call.get("generator")
        device = given.device if isinstance(given, torch.Generator) else "cpu"
        return torch.Generator(device).manual_seed(seed_of(self.seed, path))

    def _node(self, found: SearchResult, entry: Entry, state: Node | None) -> Node:
        path = (*(() if state is None else state.path), entry.candidate.id)

        def make() -> tuple[Any, Tensor]:
            pixels = found.media([entry]).pixels[0].detach().cpu()
            return None, pixels

        return Node(path, state, dict(entry.scores), make, dict(entry.held_out))

    # ---------------------------------------------------------------- frames

    def _images(self, state: Node) -> list[Image.Image]:
        return images_of(self._pixels(state))

    def joined(self, node: Node) -> tuple[Any, Tensor]:
        pixels = self._pixels(node)
        return in_form(pixels, self.form), pixels

    def _pixels(self, node: Node) -> Tensor:
        """The whole video of a node."""
        parts = []
        for part in node.line:
            part.show()
            assert part.pixels is not None
            if part.parent is not None and len(part.pixels) <= self.overlap:
                raise UsageError(
                    f"a chunk has {len(part.pixels)} frames, of which overlap={self.overlap} repeat those before it: "
                    "ask for more frames, or give a smaller overlap."
                )
            parts.append(part.pixels if part.parent is None else part.pixels[self.overlap :])
        return torch.cat(parts)


def output_form(pipe: Any, asked: Any) -> str:
    """How frames are given back: as the call says, or as the pipeline does by default. UsageError: latents."""
    if asked is None:
        known = (inspect.signature(f).parameters.get("output_type") for f in call_chain(type(pipe)))
        defaults = [p.default for p in known if p is not None and p.default in FORMS]
        asked = defaults[0] if defaults else "pil"
    if asked not in FORMS:
        raise UsageError(
            f"output_type={asked!r} cannot be joined from chunks: give one of {', '.join(FORMS)}."
        )
    return str(asked)
