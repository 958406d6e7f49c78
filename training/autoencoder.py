"""Train the autoencoder of both models: 64 x 64 x 3 images to 8 x 8 x 8 latents and back.

The latents are held at zero mean and unit variance in every channel, so that the models need no
scaling factor, and a little noise on them while training makes the decoder forgiving. Pixels of
shapes count more than those of the ground.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn

from genscale.toy.shapes import GROUND
from training.data import draw, to_unit
from training.run import Run


def build() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(0, 1, 2, 2),
        num_decoder_blocks=(2, 3, 1, 0),
        latent_channels=8,
        act_fn="relu",
    )


def loss_of(model: nn.Module, pictures: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and plain mean squared error for `pictures` [n, 3, 64, 64] in [-1, 1]."""
    latents = model.encoder(pictures)
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    standard = (mean**2 + (variance - 1) ** 2).mean()
    decoded = model.decoder(
        latents + noise * torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    )
    ground = torch.tensor(GROUND, device=pictures.device).view(1, 3, 1, 1) / 127.5 - 1
    weight = 1 + 4 * ((pictures - ground).abs().amax(1, keepdim=True) > 0.1)
    difference = decoded - pictures
    loss = (weight * (difference.abs() + 2 * difference**2)).mean() + 0.1 * standard
    return loss, (difference**2).mean().detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--noise", type=float, default=0.25)
    parser.add_argument("--pictures", type=int, default=16384, help="how many to draw and train on")
    parser.add_argument(
        "--freeze-encoder",
        action="store_true",
        help="go on with the decoder alone; the latents stay as they are",
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build()
    run = Run(args.out, args.minutes, {"autoencoder": model})
    model.to(run.device, memory_format=torch.channels_last)
    model.encoder.requires_grad_(not args.freeze_encoder)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=args.rate, betas=(0.9, 0.98), weight_decay=1e-3
    )
    pool = np.concatenate([draw(256, run.rng)[0] for _ in range(args.pictures // 256)])
    for step in run.steps():
        for group in optimiser.param_groups:
            group["lr"] = run.rate(args.rate, warmup=100, decay=0.5)
        chosen = pool[run.rng.choice(len(pool), args.batch)]
        pictures = to_unit(chosen).to(run.device, memory_format=torch.channels_last)
        loss, error = loss_of(model, pictures, args.noise)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        run.log(step, loss=loss.item(), mse=error.item())
    run.save()


if __name__ == "__main__":
    start = time.time()
    main()
    print(f"{time.time() - start:.0f} s")
