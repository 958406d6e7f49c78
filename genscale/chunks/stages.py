"""Which verifiers judge a chunk: by its stage in the video, and whether they see the chunk or all that there is so far.

Video-T1 (arXiv 2503.18942) judges the first frames, those between and the whole video by different verifiers, and joins
several verifiers by the weighted mean of their ranks among all candidates of a depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.chunks.nodes import Node
from genscale.engine.ensembles import CATEGORY
from genscale.engine.verifier_roles import VerifierSet, WeightedVerifier, verifier_set
from genscale.errors import UsageError, quoted
from genscale.media import Media

STAGES = ("early", "middle", "end")
OF_VIDEO = " of the video"


@dataclass(frozen=True)
class VideoSoFar:
    """A verifier of the video up to the chunk that it is given.

    frames: [frames, 3, h, w] before that chunk; None before the first. overlap: frames at the chunk's begin that repeat
    the end of those. text: what the video shows.
    """

    verifier: Any
    frames: Tensor | None
    overlap: int
    text: str

    judges_videos: ClassVar[bool] = True

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        prepare = getattr(self.verifier, "prepare", None)
        if prepare is not None:
            prepare([self.text] * len(prompts), device)

    def __call__(self, media: Media, prompts: Sequence[str]) -> Any:
        pixels = media.pixels
        if self.frames is not None:
            before = self.frames.to(pixels).expand(len(pixels), *self.frames.shape)
            pixels = torch.cat([before, pixels[:, self.overlap :]], 1)
        return self.verifier(Media(pixels), [self.text] * len(prompts))


@dataclass(frozen=True)
class Stages:
    """The verifiers of every depth.

    chunk: those that see the chunk, with its prompt. whole: those that see the video up to it, with the texts of all
    chunks so far. ensemble: how several are joined to one number, "rank" or "weighted".
    """

    chunk: tuple[VerifierSet, ...]
    whole: tuple[VerifierSet, ...]
    ensemble: str

    @staticmethod
    def of(verifier: Any, whole: Any, ensemble: str, chunks: int) -> Stages:
        """UsageError: something is no verifier, an unknown stage, or named twice for a depth, or scores chunks only as
        a set."""
        if ensemble == CATEGORY:
            raise UsageError(
                "the weights of a category ensemble are those of one prompt: use another for chunks."
            )
        each = _by_depth("verifier", verifier, ensemble, chunks)
        stages = Stages(each, _by_depth("whole", whole, ensemble, chunks), ensemble)
        for judges in (*stages.chunk, *stages.whole):
            for name, column in zip(judges.names, judges.columns, strict=True):
                if column.relative:
                    raise UsageError(
                        f"verifier '{name}' compares candidates with each other, and chunks are scored one by one: use "
                        "another."
                    )
        return stages

    def any(self, depth: int) -> bool:
        return bool(self.chunk[depth].members or self.whole[depth].members)

    def members(
        self, depth: int, frames: Tensor | None, overlap: int, text: str
    ) -> tuple[WeightedVerifier, ...]:
        """The verifiers of a chunk, such that each is called with the chunk alone.

        frames: of the video before it. text: of the video with it.
        """
        seen = tuple(
            replace(m, name=m.name + OF_VIDEO, verifier=VideoSoFar(m.verifier, frames, overlap, text))
            for m in self.whole[depth].members
        )
        return (*self.chunk[depth].members, *seen)

    def names(self, depth: int) -> tuple[str, ...]:
        return (*self.chunk[depth].names, *(name + OF_VIDEO for name in self.whole[depth].names))

    def joined(self, depth: int) -> VerifierSet:
        """All verifiers of a depth with their weights, to combine scores; not to be called."""
        return VerifierSet(self.members(depth, None, 0, ""), self.ensemble)

    def values(self, depth: int, children: Sequence[Node]) -> list[float]:
        """The number that ranks each candidate of a depth among all of them, higher is better; 0 without verifiers.

        Of a verifier that sees chunks it is the mean over the chunks of the path that it has judged, since a video is
        as good as its chunks; of one that sees the video so far it is its last score.
        """
        if not self.any(depth):
            return [0.0] * len(children)
        rows = [[self._of_path(name, child) for name in self.names(depth)] for child in children]
        if self.ensemble == "rank" and len(rows[0]) == 1:  # the same order, and says more than a rank
            return [score for (score,) in rows]
        return [float(v) for v in self.joined(depth).combine(torch.tensor(rows, dtype=torch.float64))]

    @staticmethod
    def _of_path(name: str, node: Node) -> float:
        if name.endswith(OF_VIDEO):
            return node.scores[name]
        found = [part.scores[name] for part in node.line if name in part.scores]
        return sum(found) / len(found)


def stage_of(depth: int, chunks: int) -> str:
    """The last chunk is the end, also where it is the first."""
    return "end" if depth == chunks - 1 else "early" if depth == 0 else "middle"


def _by_depth(name: str, given: Any, ensemble: str, chunks: int) -> tuple[VerifierSet, ...]:
    if not isinstance(given, Mapping):
        return (verifier_set(given, ensemble),) * chunks
    unknown = [key for key in given if key not in STAGES]
    if unknown or not given:
        found = f"the stage {quoted(unknown[0])}" if unknown else "no stage"
        raise UsageError(f"{name}= has {found}: give verifiers for some of {', '.join(STAGES)}.")
    made = {stage: verifier_set(value, ensemble) for stage, value in given.items()}
    empty = VerifierSet((), ensemble)
    return tuple(made.get(stage_of(depth, chunks), empty) for depth in range(chunks))
