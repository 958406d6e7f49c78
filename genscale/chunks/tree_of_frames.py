"""Tree-of-Frames of Video-T1 (Liu et al. 2025, arXiv 2503.18942): a search over videos that are made in chunks.

A state is the chunks finished so far, an action one more chunk. At each depth every state is continued by a number of
branches; all candidates of the depth are ranked together, by the verifiers of their stage, and the best ones survive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genscale.chunks.build_source import source_of
from genscale.chunks.chunk_source import ChunkSource
from genscale.chunks.nodes import Node
from genscale.chunks.output_forms import stacked
from genscale.chunks.shape import ChunkPlan, Spending, TreeShape
from genscale.chunks.stages import Stages, stage_of
from genscale.chunks.tree_result import ChunkTree
from genscale.chunks.tree_settings import TreeSettings
from genscale.engine.budget import Budget
from genscale.engine.verifier_roles import verifier_set
from genscale.errors import AllCandidatesFailed, UsageError
from genscale.plugins.limits import shown


@dataclass
class ChunkedVideo:
    """What a call gives back. frames: one entry a video, best first, in the form that the pipeline gives them in.

    search: the tree, with scores and costs.
    """

    frames: Any
    search: ChunkTree


@dataclass(frozen=True)
class TreeOfFrames:
    """A pipeline, or a function that continues a video, with a search over chunks. Made by `tree_of_frames`."""

    settings: TreeSettings

    def __call__(self, prompt: str | Sequence[str], **call: Any) -> ChunkedVideo:
        """Make a video. prompt: one for all chunks, or a list with one for each.

        call: for a pipeline, what its own call takes; every chunk gets it, and `image=` the first chunk alone.
            generator= gives the chain of candidates 0 what the plain chain of calls draws, and its seed to all others.
            For a function generator= alone.

        Raises UsageError before anything is spent for what cannot be done; AllCandidatesFailed if all candidates of a
        depth were dropped; VerifierError when a verifier fails.
        """
        source, prompts, spending = self._prepared(prompt, call)
        nodes, states, spent = self._search(source, spending)
        found = [source.joined(node) for node in states]
        tree = ChunkTree(
            prompts, self.settings.shape, tuple(nodes), tuple(states), spent, sum(spending.costs.each), source.ledger,
            source.seed, tuple(pixels for _, pixels in found),
        )  # fmt: skip
        return ChunkedVideo(stacked([frames for frames, _ in found]), tree)

    def plan(self, prompt: str | Sequence[str], **call: Any) -> ChunkPlan:
        """What a call would cost: `nfe` of the tree under its budget, `plain_nfe` of one video without a search, and
        how many `candidates`. Nothing is generated or written.
        """
        return self._prepared(prompt, call)[2].plan()

    def _prepared(
        self, prompt: str | Sequence[str], call: dict[str, Any]
    ) -> tuple[ChunkSource, tuple[str, ...], Spending]:
        prompts = _prompts(prompt, self.settings.shape.chunks)
        source = source_of(self.settings, prompts, dict(call))
        return source, prompts, Spending.of(self.settings.shape, source.costs(), self.settings.budget)

    def _search(self, source: ChunkSource, spending: Spending) -> tuple[list[Node], list[Node], int]:
        """All nodes, the states that are left at the end, and the NFE spent."""
        nodes: list[Node] = []
        states: list[Node | None] = [None]
        survivors: list[Node] = []
        spent = 0
        for depth in range(self.settings.shape.chunks):
            children: list[Node] = []
            failed: AllCandidatesFailed | None = None
            for state, nfe in zip(states, spending.allowed(depth, spent, len(states)), strict=False):
                try:
                    grown = source.grow(state, depth, nfe)
                except AllCandidatesFailed as error:
                    failed, cost = error, spending.costs.search[depth]
                    spent += cost if nfe is None else nfe  # at most this
                    continue
                children, spent = children + grown.children, spent + grown.nfe
            if not children:
                assert failed is not None
                raise failed
            survivors = self._survivors(depth, children)
            nodes += children
            states = list(survivors)
        return nodes, survivors, spent

    def _survivors(self, depth: int, children: list[Node]) -> list[Node]:
        """The best candidates of a depth, best first; of equals the one made first. The others lose their frames."""
        for child, value in zip(children, self.settings.stages.values(depth, children), strict=True):
            child.value = value
        order = sorted(children, key=lambda child: -child.value)
        best = order[: self.settings.shape.survivors[depth]]
        for child in children:
            child.survived = child in best
            if child.survived:
                child.show()
            else:
                child.frames = child.pixels = child.make = None
        return best


def tree_of_frames(
    pipe: Any, verifier: Any = None, *, chunks: int | None = None, branches: int | Sequence[int] = (4, 3, 2),
    survivors: int | Sequence[int] = 1, whole: Any = None, held_out: Any = None, ensemble: str = "rank",
    budget: Budget | str | None = None, sampler: Any = "best_of_n", first: Any = None,
    continuation: Callable[..., Any] | None = None, overlap: int | None = None, nfe: int = 1,
    batch_size: int = 16, decode_batch: int | None = None, out: str | Path | None = None,
    on_event: Callable[[Any], None] | None = None, **options: Any,
) -> TreeOfFrames:  # fmt: skip
    """Search over videos of several chunks, each of which continues the last: Tree-of-Frames (arXiv 2503.18942).

    pipe: an image-to-video pipeline of diffusers, whose chunks are searches of `genscale.scale`; or a function
        `extend(prompt, frames, generator) -> frames` that continues a video: frames is None for the first chunk, then
        all that it has returned so far, joined (a list of PIL images, an array [frames, h, w, 3] or a tensor
        [frames, 3, h, w]).
    verifier: what judges a chunk by its prompt, as in `genscale.scale`; or a mapping from the stages "early" (the first
        chunk), "middle" and "end" (the last) to such. A state has the mean score of its chunks.
    chunks: how many; by default as many as `branches` has numbers.
    branches: candidates that continue each state; one number, or one for each chunk.
    survivors: states that stay, of all candidates of a depth; one for each chunk, or one number for all but the last,
        which then has 1. The last is the number of videos returned. (N, 1, 1) branches and (N, N, 1) survivors are
        linear search: the best of N whole videos.
    whole: verifiers of the whole video so far, by stages or not, such as "temporal_consistency".
    held_out: verifiers of each chunk that only measure.
    ensemble: how several verifiers are joined: "rank", the weighted mean of ranks among all candidates of a depth as in
        the paper, or "weighted", the weighted sum of scores.
    budget: NFE of all chunks together, such as "480nfe" or "8videos" (the compute of 8 videos without a search); never
        exceeded. Where it pays for less than the tree, every depth gets its part of it.
    sampler: of the search at each state, with its fields as further keyword arguments. Those of its finished candidates
        that score best are the branches; best_of_n makes no others.
    first: a pipeline that makes the first chunk, such as a text-to-video one; None: `pipe`.
    continuation: from the frames of a state (PIL images) to the arguments of the call that continues it; by default
        `{"image": frames[-1]}`.
    overlap: frames at the begin of a chunk that repeat the end of the state; they are left out of the video. By default
        1 for a pipeline, 0 for a function.
    nfe: evaluations of one call of a function, for the budget.
    batch_size, decode_batch, on_event: as in `genscale.scale`.
    out: folder for the archives of the searches; a call with the same arguments resumes what is there. For pipelines.

    UsageError: something of this cannot be used.
    """
    shape = TreeShape.of(chunks, branches, survivors)
    stages = Stages.of(verifier, whole, ensemble, shape.chunks)
    _check_scores(shape, stages)
    for name, value, least in (("overlap", overlap, 0), ("nfe", nfe, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UsageError(f"{name}={shown(value)} must be a whole number, {least} or more.")
    if continuation is not None and not callable(continuation):
        raise UsageError(f"continuation={shown(continuation)} must be a function from frames to arguments.")
    made = TreeSettings(
        pipe, shape, stages, verifier_set(held_out, "weighted"), Budget.of(budget), first, continuation, overlap, nfe,
        sampler, batch_size, decode_batch, out, on_event, options,
    )  # fmt: skip
    source_of(made, ("",) * shape.chunks, {})  # refuses what cannot make chunks
    return TreeOfFrames(made)


def _check_scores(shape: TreeShape, stages: Stages) -> None:
    for depth in range(shape.chunks):
        if shape.chooses(depth) and not stages.any(depth):
            raise UsageError(
                f"chunk {depth + 1} has {shape.width(depth)} candidates for {shape.survivors[depth]} places and no "
                f'verifier chooses between them: give one, for the stage "{stage_of(depth, shape.chunks)}" or for all.'
            )


def _prompts(prompt: Any, chunks: int) -> tuple[str, ...]:
    each = [prompt] * chunks if isinstance(prompt, str) else prompt
    if not isinstance(each, list | tuple) or not all(isinstance(text, str) for text in each):
        raise UsageError(f"prompt={shown(prompt)} must be a text, or a list of texts, one for each chunk.")
    if len(each) != chunks:
        raise UsageError(f"{len(each)} prompts were given for {chunks} chunks: give one, or one for each.")
    return tuple(each)
