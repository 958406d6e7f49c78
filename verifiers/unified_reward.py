"""UnifiedReward 2.0: a vision-language model that was tuned to grade and to compare images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from genscale.errors import UsageError
from genscale.media import Media
from genscale.safe_json import read_text
from genscale.verifiers.axis_judge import AxisJudge
from genscale.verifiers.judge_answers import Parts, read_parts
from genscale.verifiers.judge_axes import Axis

NAMES = ("alignment", "coherence", "style")
LEAST, MOST = 1.0, 5.0
PLACE = "{prompt}"
# The names, ranges and lines of the answers are those that the model was trained to give; the words are ours.
GRADES = f"""Grade an image that a model generated for a caption, on three scales from 1 to 5:
- Alignment Score: whether its content is that of the caption
- Coherence Score: whether it holds together, without glitches and distorted objects
- Style Score: whether it looks good, whatever the caption says

Answer in this form:

Alignment Score (1-5): X
Coherence Score (1-5): Y
Style Score (1-5): Z

Text Caption: [{PLACE}]"""
SHARES = f"""Compare two images (Image 1 and Image 2) that a model generated for one caption, in three respects:
- Alignment Score: whether the content is that of the caption
- Coherence Score: whether the image holds together, without glitches and distorted objects
- Style Score: whether it looks good, whatever the caption says

Divide 1.0 between the two in each respect: the better image gets the larger share.
Answer in this form:

Alignment Score:
 Image 1: X
 Image 2: Y

Coherence Score:
 Image 1: X
 Image 2: Y

Style Score:
 Image 1: X
 Image 2: Y

Text Caption: [{PLACE}]"""


@dataclass(frozen=True)
class UnifiedReward(AxisJudge):
    """The mean of UnifiedReward 2.0's grades for alignment, coherence and style, 1 to 5; `axis` is one of them.

    Wang et al. 2025, "Unified Reward Model for Multimodal Understanding and Generation" (arXiv 2503.05236), in its
    second version, which grades on three axes. Its numbers have decimals, so images seldom tie; `ties` uses its own
    form for comparing two. Large checkpoints are best served by vLLM and asked by `url`.

    The form of its answers is the one that it was trained with, the words of the question are ours; give the authors'
    own as `template` to have exactly their question.

    Blind spots: it grades images alone, not videos; it was tuned on preferences of 2025, and likes polished images.
    Grades of checkpoints of different sizes do not compare.

    template: file with the text of the question, with {prompt}; None: GRADES of this module.
    pair_template: the same for comparisons; None: SHARES.
    """

    checkpoint: str = "CodeGoat24/UnifiedReward-2.0-qwen3vl-2b"
    template: str | None = None
    pair_template: str | None = None

    kind: ClassVar[str] = "unified_reward"
    judges_videos: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._texts  # noqa: B018  refuses files that cannot be used

    def judged(self, media: Media, prompts: Sequence[str]) -> list[Parts | None]:
        """The grades of each image; None where there is no answer."""
        if media.is_video:
            raise UsageError(
                "unified_reward grades images: use frames(verifier=unified_reward), or vlm_judge, for videos."
            )
        return super().judged(media, prompts)

    @cached_property
    def _texts(self) -> tuple[str, str]:
        return _template(self.template, GRADES), _template(self.pair_template, SHARES)

    @property
    def _axes(self) -> tuple[Axis, ...]:
        return tuple(map(Axis, NAMES))

    def _question(self, prompt: str, pictures: int) -> str:
        return self._texts[0].replace(PLACE, prompt)

    def _read(self, answer: str) -> Parts:
        return read_parts(answer, NAMES, LEAST, MOST)

    def _comparison(self, prompt: str, pictures: int) -> str:
        return self._texts[1].replace(PLACE, prompt)

    def _better(self, answer: str) -> float:
        wanted = NAMES if self.axis is None else (self.axis,)
        return sum(_share(answer, name) for name in wanted) / len(wanted)


def _share(answer: str, name: str) -> float:
    """The share of the first of two images on one axis. ValueError: the answer does not say."""
    number = r"([01]?\.?\d+)"
    found = re.findall(
        rf"{name}\s+score[^\n:]*:\s*[*\s]*image\s*1[*\s]*:\s*{number}\s*image\s*2[*\s]*:\s*{number}",
        answer,
        re.IGNORECASE,
    )
    if not found:
        raise ValueError(f"{name} is missing")
    first, second = map(float, found[-1])
    if not (0 <= first <= 1 and 0 <= second <= 1 and first + second > 0):
        raise ValueError(f"the shares of {name} are {first:g} and {second:g}")
    return first / (first + second)


def _template(file: str | None, own: str) -> str:
    if file is None:
        return own
    text = read_text(Path(file).expanduser(), f"template '{file}' of unified_reward")
    if PLACE not in text:
        raise UsageError(
            f"template '{file}' of unified_reward does not name the prompt: write {PLACE} in it."
        )
    return text
