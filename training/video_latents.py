"""Encode videos once, so that training the video denoiser costs no rendering and no encoder.

Writes `part-<seed>.npz` with latents [n, 48, 2, 2, 2] (float16), captions (token ids [n, 13]) and, for the auxiliary
loss, the colour and kind at the middle of each cell of 4 x 4 pixels at the end of each latent frame (0: ground).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from genscale.toy.moving_shapes import FRAMES, KINDS, SIZE, Scene, render, sample_scene
from genscale.toy.shapes import COLOURS
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--autoencoder", type=Path, required=True, help="checkpoint of training.video_autoencoder"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(args.autoencoder).to(device).requires_grad_(False)
    words = video_tokenizer(args.out / "tokenizer")
    rng = np.random.default_rng((7, args.seed))
    latents, captions, labels = [], [], []
    for start in range(0, args.n, 64):
        prompts = [draw_prompt(rng) for _ in range(min(64, args.n - start))]
        scenes = [sample_scene(p, rng) for p in prompts]
        with torch.autocast(device.type, torch.bfloat16):
            means = encode(model, to_unit(render(scenes)).to(device))
        latents.append(means.float().cpu().half().numpy())
        captions.append(
            words([p.text for p in prompts], padding="max_length", max_length=LENGTH)["input_ids"]
        )
        labels.append(np.stack([cells(scene) for scene in scenes]))
    np.savez(
        args.out / f"part-{args.seed}.npz",
        latents=np.concatenate(latents),
        captions=np.concatenate([np.asarray(c, np.uint8) for c in captions]),
        labels=np.concatenate(labels),
    )


if __name__ == "__main__":
    main()
