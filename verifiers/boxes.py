"""Boxes: scores the image and regions of it, each region with a text of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import registry
from genscale.verifiers.boxes_file import read_boxes
from genscale.verifiers.checkpoints import check_pairs
from genscale.verifiers.regions import VIEWS, Box

BY = ("box", "area")


@dataclass(frozen=True, eq=False)
class Boxes:
    """(1 - share) x the score of the whole image + share x the mean score of its regions, by any other verifier.

    The reward of SceneGenie (Farshad et al. 2023, arXiv 2304.14573), which adds to the CLIP distance of the image
    those of its boxes' crops, weighted by area. Differentiable where the other verifier is. A prompt without boxes gets
    the score of the whole image.

    verifier: the verifier that scores image and regions, a name or an object. boxes: a list of `Box`, the same for all
        prompts; or a mapping from a prompt's text to its list; or a JSON file of either (see boxes_file.py).
    share: of the regions, in [0, 1]. by: "box", every region counts alike, or "area", by its size, as in the paper.
    view: "crop", a region is enlarged to the image's size; or "mask", it stays where it is, and the rest is painted
        over. None: what the verifier says of itself in `regions`, else "crop". shapes_clip, which has not seen
        close-ups, says mask. fill: the grey of what is painted over in [0, 1], or "mean", the mean colour inside (where
        None and the verifier says nothing).

    Blind spots: those of the other verifier; the same object outside its box lowers the score of the whole image
    only. A crop is resized to the image's size, which changes its aspect ratio.
    """

    verifier: Any
    boxes: Any
    share: float = 0.5
    by: str = "box"
    view: str | None = None
    fill: float | str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"share={self.share} must be in [0, 1]; 0 ignores the boxes.")
        if isinstance(self.verifier, str):
            object.__setattr__(self, "verifier", registry.make("verifier", self.verifier, {}))
        if not callable(self.verifier):
            raise UsageError(
                f"{self.verifier!r} is not a verifier: give a name or a callable (media, prompts)."
            )
        self._complete_view()
        if isinstance(self.boxes, str | Path):
            object.__setattr__(self, "boxes", read_boxes(Path(self.boxes)))
        lists = list(self.boxes.values()) if isinstance(self.boxes, Mapping) else [self.boxes]
        for boxes in lists:
            if isinstance(boxes, str) or not isinstance(boxes, Sequence) or not all(
                isinstance(b, Box) for b in boxes
            ):  # fmt: skip
                raise UsageError(
                    f"boxes are lists of Box(text, (x0, y0, x1, y1)), or prompts with such, not {boxes!r}."
                )

    def _complete_view(self) -> None:
        wanted = {"view": "crop", "fill": "mean"} | dict(getattr(self.verifier, "regions", {}))
        for option, value in wanted.items():
            if getattr(self, option) is None:
                object.__setattr__(self, option, value)
        if self.by not in BY or self.view not in VIEWS:
            raise UsageError(
                f"by='{self.by}', view='{self.view}': by is {' or '.join(BY)}, view {' or '.join(VIEWS)}."
            )
        fill = self.fill
        if fill != "mean" and (not isinstance(fill, int | float) or not 0 <= fill <= 1):
            raise UsageError(f"fill={fill} must be a grey in [0, 1], or mean.")

    @cached_property
    def name(self) -> str:
        """The name of its scores in results."""
        inner = getattr(self.verifier, "name", None) or getattr(self.verifier, "__name__", None)
        return f"boxes({inner or type(self.verifier).__name__})"

    @property
    def reads_prompts(self) -> bool | None:
        """Whether it scores by the prompts, or finds the boxes by them; None where its verifier does not say."""
        said: bool | None = getattr(self.verifier, "reads_prompts", None)
        return True if isinstance(self.boxes, Mapping) else said

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """Scores [n], float64."""
        with torch.no_grad():
            return self._scores(media.pixels, prompts, self._on_images)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable where the verifier is."""
        return self._scores(pixels, prompts, getattr(self.verifier, "score_tensor", self._on_images))

    @staticmethod
    def read(path: Path, prompts: Sequence[str]) -> list[Box] | dict[str, list[Box]]:
        """The boxes of a file for these prompts, by text or number."""
        return read_boxes(path, prompts)

    def of(self, prompt: str) -> Sequence[Box]:
        """The boxes of a prompt."""
        found: Sequence[Box] = self.boxes.get(prompt, ()) if isinstance(self.boxes, Mapping) else self.boxes
        return found

    def load(self, device: str | torch.device = "cpu") -> None:
        """Load what the verifier needs now."""
        load = getattr(self.verifier, "load", None)
        if load is not None:
            load(device)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Prepare the verifier, if it can be, for the prompts and the texts of their regions."""
        prepare = getattr(self.verifier, "prepare", None)
        if prepare is not None:
            texts = [box.text for prompt in prompts for box in self.of(prompt)] if self.share > 0 else []
            prepare([*prompts, *texts], device)

    def _on_images(self, pixels: Tensor, prompts: Sequence[str]) -> Any:
        return self.verifier(Media(pixels), prompts)

    def _scores(self, pixels: Tensor, prompts: Sequence[str], verifier: Any) -> Tensor:
        """All images and all their regions are scored in one call."""
        check_pairs(pixels, prompts)
        owners, texts, views, weights = list[int](), list[str](), list[Tensor](), list[float]()
        for i, prompt in enumerate(prompts):
            boxes = self.of(prompt) if self.share > 0 else ()
            sizes = [b.area if self.by == "area" else 1.0 for b in boxes]
            for box, size in zip(boxes, sizes, strict=True):
                owners.append(i)
                texts.append(box.text)
                views.append(box.seen(pixels[i], str(self.view), "mean" if self.fill is None else self.fill))
                weights.append(size / sum(sizes))
        shown = torch.cat([pixels, torch.stack(views)]) if views else pixels
        raw = _vector(verifier(shown, [*prompts, *texts]), len(shown))
        whole, regions = raw[: len(pixels)], raw[len(pixels) :]
        if not views:
            return whole
        at = torch.tensor(owners, device=raw.device)
        mean = torch.zeros_like(whole).index_add(0, at, regions * torch.tensor(weights).to(raw))
        has = torch.zeros_like(whole, dtype=torch.bool)
        has[at] = True
        return torch.where(has, (1 - self.share) * whole + self.share * mean, whole)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def _vector(raw: Any, n: int) -> Tensor:
    """Scores [n] as a tensor, in the verifier's own precision where it gave one."""
    vector: Tensor = (
        raw if isinstance(raw, Tensor) else torch.tensor(list(map(float, raw)), dtype=torch.float64)
    )
    if vector.numel() != n:
        raise ValueError(
            f"the verifier under the boxes gave {vector.numel()} scores for {n} images and regions"
        )
    return vector.reshape(n)
