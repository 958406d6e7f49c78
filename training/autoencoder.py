"""Train the autoencoder of both models: 64 x 64 x 3 images to 8 x 8 x 8 latents and back.

The latents are held at zero mean and unit variance in every channel, so that the models need no
scaling factor, and a little noise on them while training makes the decoder forgiving. Pixels of
shapes count more than those of the ground.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn

from training.common import descend, options, reconstruction_loss, started
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
    decoded = model.decoder(
        latents + noise * torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    )
    return reconstruction_loss(latents, decoded, pictures)


def main() -> None:
    parser = options(__doc__, minutes=15, batch=32, threads=2)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--noise", type=float, default=0.25)
    parser.add_argument("--pictures", type=int, default=16384, help="how many to draw and train on")
    parser.add_argument(
        "--freeze-encoder",
        action="store_true",
        help="go on with the decoder alone; the latents stay as they are",
    )
    args = started(parser, seed=False)
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
        descend([optimiser], loss, list(model.parameters()))
        run.log(step, loss=loss.item(), mse=error.item())
    run.save()


if __name__ == "__main__":
    start = time.time()
    main()
    print(f"{time.time() - start:.0f} s")
