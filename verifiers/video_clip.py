"""A small learned judge of moving shapes: the cosine of a video's and a caption's embedding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

import genscale
from genscale.errors import UsageError, quoted
from genscale.toy.moving_shapes import DIRECTIONS, FRAMES, KINDS, SIZE
from genscale.toy.shapes import COLOURS
from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice

FOLDER = Path(genscale.__file__).parent / "models" / "shapes-video-clip"
WORDS = ("", "a", "and", "moving", *COLOURS, *KINDS, *DIRECTIONS)  # "" is padding
LENGTH = 11  # words in the longest caption
WIDTH = 128


class Towers(nn.Module):
    """Videos and captions to unit vectors of WIDTH numbers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3 * FRAMES, 48, 96, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.GELU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.GELU()]
        side = SIZE // 8
        self.see = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(widths[-1] * side**2, 256), nn.GELU(), nn.Linear(256, WIDTH)
        )
        self.words = nn.Embedding(len(WORDS), WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.read = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.name = nn.Linear(WIDTH, WIDTH)
        self.logit_scale = nn.Parameter(torch.tensor(2.5))

    def videos(self, pixels: Tensor) -> Tensor:
        """[n, FRAMES, 3, SIZE, SIZE] in [0, 1] to [n, WIDTH]; differentiable."""
        return nn.functional.normalize(self.see((2 * pixels - 1).flatten(1, 2)), dim=-1)

    def captions(self, ids: Tensor) -> Tensor:
        """Word indices [n, LENGTH] to [n, WIDTH]."""
        read = self.read(self.words(ids) + self.places)
        there = (ids > 0).float()[..., None]
        mean = (read * there).sum(1) / there.sum(1).clamp(min=1)
        return nn.functional.normalize(self.name(mean), dim=-1)


def word_indices(prompts: Sequence[str]) -> Tensor:
    """[n, LENGTH] of captions; a UsageError names the first word that is unknown, or the caption that is too long."""
    rows = []
    for prompt in prompts:
        words = prompt.lower().replace(".", " ").replace(",", " ").split()
        unknown = [w for w in words if w not in WORDS]
        if unknown or len(words) > LENGTH:
            found = quoted(unknown[0]) if unknown else f"{len(words)} words"
            raise UsageError(
                f"shapes_video_clip cannot read {found} in {quoted(prompt)}: give at most {LENGTH} of the words"
                f" {', '.join(WORDS[1:])}."
            )
        rows.append([WORDS.index(w) for w in words] + [0] * (LENGTH - len(words)))
    return torch.tensor(rows)


@dataclass(frozen=True)
class ShapesVideoClip(LoadedPerDevice[Towers], Differentiable):
    """Cosine of video and caption by a small model that comes with genscale, trained on videos of moving shapes.

    In the manner of CLIPScore (Hessel et al. 2021, arXiv 2104.08718), but it sees the whole video at once, so it can
    tell a motion. It knows the words of `genscale.toy.moving_shapes` only and, like any learned judge, errs: hold
    `moving_shapes`, the exact one, against it.

    device: where it runs; None: where the videos are.
    """

    device: str | None = None

    name: ClassVar[str] = "shapes_video_clip"
    backbone: ClassVar[str] = "shapes-video-clip"
    reads_prompts: ClassVar[bool] = True
    judges_videos: ClassVar[bool] = True

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model. UsageError: a prompt has words that it does not know."""
        word_indices(prompts)
        self.load(device)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        if len(pixels) != len(prompts):
            raise ValueError(f"{len(pixels)} videos and {len(prompts)} prompts: give one for each.")
        if pixels.ndim != 5:
            raise UsageError(
                "shapes_video_clip scores videos and was given images: use shapes_clip for those."
            )
        towers = self._model(pixels.device)
        device = towers.logit_scale.device
        seen = towers.videos(_resized(pixels.float().to(device)))
        named = towers.captions(word_indices(prompts).to(device))
        return (seen * named).sum(-1).to(pixels.device)

    def _load_on(self, device: torch.device) -> Towers:
        return read_towers(FOLDER).to(device)


def read_towers(folder: Path) -> Towers:
    """The trained towers in `folder`, in float32, frozen."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    if not path.is_file():
        raise UsageError(f"shapes_video_clip needs '{path}', which is missing: install genscale again.")
    towers = Towers()
    towers.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return towers.eval().requires_grad_(False)


def _resized(pixels: Tensor) -> Tensor:
    """Videos of FRAMES frames of SIZE x SIZE: the frames nearest in time, sizes by area."""
    n, frames, channels, height, width = pixels.shape
    if frames != FRAMES:
        places = torch.linspace(0, frames - 1, FRAMES, device=pixels.device).round().long()
        pixels = pixels[:, places]
    if (height, width) != (SIZE, SIZE):
        flat = nn.functional.interpolate(pixels.flatten(0, 1), (SIZE, SIZE), mode="area")
        pixels = flat.view(n, FRAMES, channels, SIZE, SIZE)
    return pixels
