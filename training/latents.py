"""Encode images once, so that training a denoiser costs no rendering and no encoder.

Writes `part-<seed>.npz` with latents [n, 8, 8, 8] (float16), captions (as token ids [n, 10]) and,
for the auxiliary loss, the colour and kind at the middle of each of the 8 x 8 cells (0: ground).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from genscale.toy.shapes import COLOURS, KINDS, SIZE, Scene, render, sample_scene
from training.common import latent_options, started, write_latents
from training.data import draw_requirement, to_unit
from training.text import LENGTH, tokenizer


def cells(scene: Scene) -> np.ndarray:
    """Colour and kind, [2, 8, 8] uint8, at the middle of each cell of 8 x 8 pixels; 0 for ground."""
    middle = np.arange(SIZE // 8) * 8 + 4.0
    labels = np.zeros((2, 8, 8), np.uint8)
    for shape in scene.shapes:
        inside = (middle[None, :] - shape.x) ** 2 + (middle[:, None] - shape.y) ** 2 < (shape.radius + 1) ** 2
        labels[0][inside] = 1 + list(COLOURS).index(shape.colour)
        labels[1][inside] = 1 + KINDS.index(shape.kind)
    return labels


def main() -> None:
    args = started(latent_options(__doc__, None, 50_000), seed=False)
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoencoderTiny.from_pretrained(args.autoencoder).to(device).requires_grad_(False)
    words = tokenizer(args.out / "tokenizer")

    def encode(scenes: list[Scene]) -> torch.Tensor:
        images = to_unit(render(scenes)).to(device, memory_format=torch.channels_last)
        return model.encoder(images).cpu()

    write_latents(args, words, LENGTH, draw_requirement, sample_scene, encode, cells)


def load(folder: Path) -> dict[str, torch.Tensor]:
    """All parts in `folder`, one after the other: latents, captions, labels."""
    parts = [np.load(path) for path in sorted(folder.glob("part-*.npz"))]
    if not parts:
        raise FileNotFoundError(f"No part-*.npz in {folder}: run training.latents first.")
    return {
        name: torch.from_numpy(np.concatenate([part[name] for part in parts]))
        for name in ("latents", "captions", "labels")
    }


if __name__ == "__main__":
    main()
