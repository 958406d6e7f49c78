"""Whether an image spells the text that its prompt puts in quotation marks, by optical character recognition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from genscale.errors import UsageError, quoted
from genscale.media import Media
from genscale.verifiers.checkpoints import check_pairs
from genscale.verifiers.edit_distance import nearest_part
from genscale.verifiers.optical_reader import BACKBONE, Reader, load_reader
from genscale.verifiers.quoted_text import comparable, quoted_texts

TAKEN = "\0"  # in place of characters that a quote has matched; no text has it


@dataclass(frozen=True)
class TextInImage:
    """1 - edit distance / length, 0 to 1, of what the image spells to the quoted texts of the prompt.

    The text is recognised by rapidocr (PP-OCRv6 small: detection, direction, recognition), whose package has its
    models. The measure is the normalised edit distance that text rendering is judged by, as in AnyText (Tuo et al.
    2023, arXiv 2311.03054). All lines of the image are joined in reading order. Of the joined text the contiguous part
    that is nearest to a quote counts, by Levenshtein distance (Sellers 1980); so other text costs no edits. Several
    quotes are matched one after the other, the longest first, each in what the others left; distances and lengths
    are added up. Then

        score = (1 - distance / length) (1 - other * share),

    share: of the recognised characters, those that no quote matched. White space does not count, since a line break or
    a wide letter spacing changes it. For videos the mean over frames. Not differentiable.

    Blind spots: everything but the text; where it stands; a quote that other text interrupts; handwriting and lettering
    that the recogniser cannot read; it reads what a person would, so it may forgive a malformed letter. It reads
    Latin, Chinese and Japanese letters; quotes with others are refused.

    case_sensitive: whether "open" is not "OPEN".
    other: what text beside the quotes costs, of the score; 0: nothing.
    confidence: lines that are recognised with less, in [0, 1], are not read.
    recogniser: another recognition model of PaddleOCR, an .onnx file with its alphabet, for other languages.
    """

    case_sensitive: bool = False
    other: float = 0.1
    confidence: float = 0.5
    recogniser: str | None = None

    name: ClassVar[str] = "text_in_image"
    reads_prompts: ClassVar[bool] = True

    @property
    def backbone(self) -> str:
        """What its models are."""
        return self.recogniser or BACKBONE

    def __post_init__(self) -> None:
        for field in ("other", "confidence"):
            if not 0 <= getattr(self, field) <= 1:
                raise UsageError(f"{field} {getattr(self, field)} of text_in_image is no share: give 0 to 1.")

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the models. UsageError: the package is missing, or a prompt quotes nothing or what cannot be read."""
        texts = [self._wanted(prompt) for prompt in prompts]
        alphabet = self._reader.alphabet
        for prompt, wanted in zip(prompts, texts, strict=True):
            unread = sorted(set("".join(wanted)) - alphabet)
            if unread:
                raise UsageError(
                    f"text_in_image cannot read {quoted(unread[0])}, which {quoted(prompt)} asks for: give a "
                    "recogniser of its language."
                )

    def load(self, device: str | torch.device = "cpu") -> None:
        """Load the models now; they run on the CPU. UsageError: the package is missing."""
        self._reader  # noqa: B018

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """Scores [n], float64. UsageError: a prompt quotes nothing."""
        check_pairs(media.pixels, prompts)
        return torch.tensor(
            [self._score(item, self._wanted(p)) for item, p in zip(media, prompts, strict=True)],
            dtype=torch.float64,
        )

    def read(self, image: Image.Image) -> list[str]:
        """The lines that are recognised in an image, in reading order."""
        return self._reader.lines(image)

    def _score(self, item: Any, wanted: list[str]) -> float:
        frames: list[Image.Image] = item if isinstance(item, list) else [item]
        scores = [
            spelled("".join(map(self._plain, self.read(frame))), wanted, self.other) for frame in frames
        ]
        return sum(scores) / len(scores)

    def _wanted(self, prompt: str) -> list[str]:
        wanted = [plain for text in quoted_texts(prompt) if (plain := self._plain(text))]
        if not wanted:
            raise UsageError(
                f"text_in_image finds no quoted text in the prompt {quoted(prompt)}: put what the image should spell "
                'in quotation marks, as in a sign that says "OPEN".'
            )
        return wanted

    def _plain(self, text: str) -> str:
        return comparable(text.replace(TAKEN, ""), self.case_sensitive)

    @cached_property
    def _reader(self) -> Reader:
        return load_reader(self.confidence, self.recogniser)

    def __getstate__(self) -> dict[str, Any]:
        return {
            f.name: getattr(self, f.name) for f in fields(self)
        }  # a copy has the settings, not the models


def spelled(text: str, wanted: Sequence[str], other: float) -> float:
    """The score, 0 to 1, of a recognised text for the texts that are wanted, as the verifier's docstring says."""
    left, distance = text, 0
    for quote in sorted(wanted, key=len, reverse=True):
        found, start, stop = nearest_part(quote, left)
        distance += found
        if found < len(quote):  # otherwise nothing of it is there
            left = left[:start] + TAKEN * (stop - start) + left[stop:]
    share = sum(letter != TAKEN for letter in left) / len(text) if text else 0.0
    return (1 - distance / sum(map(len, wanted))) * (1 - other * share)
