"""Which texts give the same answer: for a majority vote, the ensemble "vote"."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.media_items import TEXT
from genscale.plugins.limits import shown

NONE = -1.0
"""In place of an answer, where a text has none: it gets no vote."""


@dataclass(frozen=True)
class Answers:
    """A number for the answer of each text, the same for the same answers. It is no quality: it is counted.

    With the ensemble "vote" a candidate's total is the number of candidates that give its answer, so the best text is
    one with the answer of most (self-consistency, Wang et al. 2023, arXiv 2203.11171), and of equals the first.

    Blind spots: a mistake that most texts share wins; two ways to write one answer are two answers, unless `read`
    makes them one.

    read: a function from a text to its answer, a text, or to None where it has none. None: the whole text, without
        spaces at its ends.
    """

    read: Callable[[str], str | None] | None = None

    name: ClassVar[str] = "answers"
    reads_prompts: ClassVar[bool] = False
    judges: ClassVar[tuple[str, ...]] = (TEXT,)
    gives_answers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.read is not None and not callable(self.read):
            raise UsageError(
                f"read={shown(self.read)} of answers must be a function from a text to its answer."
            )

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n], float64: whole numbers in [0, 2^48), or NONE. UsageError: `read` gave no text."""
        return torch.tensor([self._number(text) for text in media], dtype=torch.float64)

    def _number(self, text: object) -> float:
        assert isinstance(text, str)
        answer = text.strip() if self.read is None else self.read(text)
        if answer is None:
            return NONE
        if not isinstance(answer, str):
            raise UsageError(
                f"read of answers gave {shown(answer)}: it must give a text, or None for no answer."
            )
        digest = hashlib.blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=6).digest()
        return float(int.from_bytes(digest, "big"))  # below 2^53, so a float holds it exactly
