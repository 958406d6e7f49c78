"""What judges that answer with a number on each of several axes have in common, ties among images included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins.limits import FRAMES
from genscale.verifiers.by_chat import ByChat
from genscale.verifiers.chat import Question
from genscale.verifiers.judge_answers import Parts
from genscale.verifiers.judge_axes import Axis, total
from genscale.verifiers.tournament import tie_breaks


@dataclass(frozen=True, kw_only=True)
class AxisJudge(ByChat):
    """The weighted mean of numbers on several axes, or one of them.

    axis: the one whose number is the score; None: the weighted mean of all. What was answered for the others is not
        asked again.
    ties: images with which one that ties with others of its prompt is compared at most, two at a time and in both
        orders (`genscale.verifiers.tournament`); 0: ties stay. Only images that are scored in one call are compared.
    frames: of a video that are shown, evenly spaced.
    """

    axis: str | None = None
    ties: int = 0
    frames: int = field(default=4)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [a.name for a in self._axes]
        if self.axis is not None and self.axis not in names:
            raise UsageError(f"axis '{self.axis}' of {self.name} is none of its axes {', '.join(names)}.")
        if self.ties < 0 or self.ties == 1:
            raise UsageError(f"ties={self.ties} of {self.name} must be 0, or 2 or more.")
        if not FRAMES.admits(self.frames):
            raise UsageError(f"frames={self.frames} of {self.name} must be {FRAMES}.")

    @property
    def name(self) -> str:
        """The name of its scores in results, with the axis where they are those of one."""
        return self.kind if self.axis is None else f"{self.kind}({self.axis})"

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """Scores [n], float64; NaN where there is no answer."""
        verdicts = self.judged(media, prompts)
        totals = [math.nan if v is None else total(v.numbers, self._axes, self.axis) for v in verdicts]
        if self.ties:
            shown = [pictures_of(item, self.frames) for item in media]

            def compare(pairs: Sequence[tuple[int, int]]) -> list[float | None]:
                asked = [
                    Question(self._comparison(prompts[a], len(shown[a])), (*shown[a], *shown[b]))
                    for a, b in pairs
                ]
                return self._ask(asked, self._better, media.device)

            breaks = tie_breaks(totals, prompts, self.ties, compare)
            totals = [t + b for t, b in zip(totals, breaks, strict=True)]
        return torch.tensor(totals, dtype=torch.float64)

    def judged(self, media: Media, prompts: Sequence[str]) -> list[Parts | None]:
        """The numbers of all axes and the reason, for each image; None where there is no answer."""
        if len(media) != len(prompts):
            raise ValueError(f"{len(media)} images and {len(prompts)} prompts: give one for each.")
        questions = []
        for item, prompt in zip(media, prompts, strict=True):
            pictures = pictures_of(item, self.frames)
            questions.append(Question(self._question(prompt, len(pictures)), pictures))
        return self._ask(questions, self._read, media.device)

    @property
    def _axes(self) -> tuple[Axis, ...]:
        raise NotImplementedError

    def _question(self, prompt: str, pictures: int) -> str:
        """What is asked about so many pictures, of one image or video."""
        raise NotImplementedError

    def _read(self, answer: str) -> Parts:
        """The numbers of an answer. ValueError: it has not the form that was asked for."""
        raise NotImplementedError

    def _comparison(self, prompt: str, pictures: int) -> str:
        """What is asked about two images or videos of so many pictures each."""
        raise NotImplementedError

    def _better(self, answer: str) -> float:
        """The share in [0, 1] by which the first of two is better. ValueError: the answer does not say."""
        raise NotImplementedError


def pictures_of(item: Any, frames: int) -> tuple[Image.Image, ...]:
    """What is shown of an image or a video."""
    if isinstance(item, Image.Image):
        return (item,)
    places = torch.linspace(0, len(item) - 1, min(frames, len(item))).round().long().tolist()
    return tuple(item[i] for i in places)
