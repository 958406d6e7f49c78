"""Encode videos once, so that training the video denoiser costs no rendering and no encoder.

Writes `part-<seed>.npz` with latents [n, 48, 2, 2, 2] (float16), captions (token ids [n, 13]) and, for the auxiliary
loss, the colour and kind at the middle of each cell of 4 x 4 pixels at the end of each latent frame (0: ground).
"""

from __future__ import annotations

import numpy as np
import torch

from genscale.toy.moving_shapes import FRAMES, KINDS, SIZE, Scene, render, sample_scene
from genscale.toy.shapes import COLOURS
from training.common import latent_options, started, write_latents
from training.moving_data import draw_prompt, to_unit
from training.video_autoencoder import encode, load
from training.video_text import LENGTH, video_tokenizer

CELL = 4
SIDE = SIZE // CELL


def cells(scene: Scene) -> np.ndarray:
    """Colour and kind, [2, 2, SIDE, SIDE] uint8, of the cells in frames 0 and 4; 0 for ground."""
    middle = np.arange(SIDE) * CELL + CELL / 2
    labels = np.zeros((2, 1 + FRAMES // 4, SIDE, SIDE), np.uint8)
    for mover in scene:
        for i, frame in enumerate(range(0, FRAMES, 4)):
            x, y = mover.path[frame]
            inside = (middle[None, :] - x) ** 2 + (middle[:, None] - y) ** 2 < (mover.radius + 1) ** 2
            labels[0, i][inside] = 1 + list(COLOURS).index(mover.colour)
            labels[1, i][inside] = 1 + KINDS.index(mover.kind)
    return labels


def main() -> None:
    args = started(latent_options(__doc__, "checkpoint of training.video_autoencoder", 20_000), seed=False)
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(args.autoencoder).to(device).requires_grad_(False)
    words = video_tokenizer(args.out / "tokenizer")

    def latents_of(scenes: list[Scene]) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            means = encode(model, to_unit(render(scenes)).to(device))
        return means.float().cpu()

    write_latents(args, words, LENGTH, draw_prompt, sample_scene, latents_of, cells)


if __name__ == "__main__":
    main()
