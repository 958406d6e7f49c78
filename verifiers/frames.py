"""Any verifier of images as one of videos: some frames, each scored by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import registry
from genscale.plugins.limits import FRAMES

REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda scores: scores.mean(1),
    "min": lambda scores: scores.amin(1),
    "median": lambda scores: scores.quantile(0.5, dim=1),
}


@dataclass(frozen=True)
class Frames:
    """The scores of k frames of a video, evenly spaced from the first to the last, made into one.

    The learned verifiers score every frame of a video; k frames cost k scores, however long it is, and a
    verifier that knows images only can be used. Images are scored as they are. k = 3 is first, middle and last.

    Blind to time: a shuffled video scores the same. Use it with `temporal_consistency` and `dynamic_degree`.

    verifier: name of a registered one, or any callable `(media, prompts) -> scores`.
    k: frames; of a shorter video all frames are scored. reduce: "mean", "median", or "min", the worst frame.
    """

    verifier: str | Callable[..., Any] = "clip"
    k: int = 8
    reduce: str = "mean"

    name: ClassVar[str] = "frames"
    judges_videos: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not FRAMES.admits(self.k):
            raise UsageError(f"{self.k} frames of a video cannot be scored: give k of {FRAMES}.")
        if self.reduce not in REDUCE:
            raise UsageError(f"reduce '{self.reduce}' is unknown: choose one of {', '.join(REDUCE)}.")

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """Scores [n]."""
        pixels, words = self._images(media.pixels, prompts)
        scores = torch.as_tensor(self._verifier(Media(pixels), words))
        return self._reduced(scores, len(media))

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1], differentiable if the verifier's are."""
        frames, words = self._images(pixels, prompts)
        on_tensors = getattr(self._verifier, "score_tensor", None)
        scores = self._verifier(Media(frames), words) if on_tensors is None else on_tensors(frames, words)
        if not isinstance(scores, Tensor) or (on_tensors is None and not scores.requires_grad):
            name = getattr(self.verifier, "name", self.verifier)
            raise UsageError(f"verifier '{name}' gives no gradients: choose one with score_tensor.")
        return self._reduced(scores, len(pixels))

    def load(self, device: str | torch.device = "cpu") -> None:
        """Load the verifier now, if it has a `load`."""
        if (load := getattr(self._verifier, "load", None)) is not None:
            load(device)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Find the verifier, and prepare it if it can be, before anything is spent."""
        if (prepare := getattr(self._verifier, "prepare", None)) is not None:
            prepare(prompts, device)

    def _images(self, pixels: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
        if pixels.ndim == 4:
            return pixels, list(prompts)
        places = torch.linspace(0, pixels.shape[1] - 1, min(self.k, pixels.shape[1])).round().long()
        return pixels[:, places.tolist()].flatten(0, 1), [p for p in prompts for _ in places]

    def _reduced(self, scores: Tensor, n: int) -> Tensor:
        return scores if len(scores) == n else REDUCE[self.reduce](scores.reshape(n, -1))

    @property
    def reads_prompts(self) -> bool | None:
        """As the verifier says; None where it does not."""
        said: bool | None = getattr(self._verifier, "reads_prompts", None)
        return said

    @property
    def backbone(self) -> Any:
        """That of its verifier; None where it says none."""
        return getattr(self._verifier, "backbone", None)

    @cached_property
    def _verifier(self) -> Any:
        return (
            registry.make("verifier", self.verifier, {}) if isinstance(self.verifier, str) else self.verifier
        )
