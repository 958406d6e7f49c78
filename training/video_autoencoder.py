"""Train the video model's autoencoder: videos [3, 5, 32, 32] to latents [48, 2, 2, 2] and back.

A small AutoencoderKLWan on patches of 4 x 4 pixels (Wan 2.2: 2 x 2): causal in time, one latent frame for the first
frame and one for every four more. Its mean is trained and its variance is not (set to almost nothing), so it is used
as a plain autoencoder. As for images (training.autoencoder), latents are held near zero mean and unit variance,
carry a little noise in training, and the pixels of shapes count more than those of the ground.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from training.common import descend, options, reconstruction_loss, set_rates, started
from training.moving_data import draw, to_unit
from training.optimiser import optimisers
from training.run import Run

CHANNELS = 48
PATCH = 4


def build(mean: list[float] | None = None, std: list[float] | None = None) -> AutoencoderKLWan:
    """mean, std: of every latent channel, which the pipeline takes off before it denoises."""
    model = AutoencoderKLWan(
        base_dim=64,
        decoder_base_dim=64,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=PATCH,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        latents_mean=mean or [0.0] * CHANNELS,
        latents_std=std or [1.0] * CHANNELS,
        is_residual=True,
        scale_factor_temporal=4,
        scale_factor_spatial=4 * PATCH,
    )
    with torch.no_grad():  # the variance, exp(-20) whatever the video
        model.quant_conv.weight[CHANNELS:].zero_()
        model.quant_conv.bias[CHANNELS:].fill_(-20.0)
    return model


def load(checkpoint: Path) -> AutoencoderKLWan:
    model = build()
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    model.load_state_dict(state["modules"]["autoencoder"])
    return model.eval()


def encode(model: AutoencoderKLWan, clips: torch.Tensor) -> torch.Tensor:
    """Means [n, 48, 2, 2, 2] of `clips` [n, 3, 5, 32, 32] in [-1, 1]."""
    return model.encode(clips).latent_dist.mean


def loss_of(model: AutoencoderKLWan, clips: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and plain mean squared error."""
    latents = encode(model, clips).float()
    strength = noise * torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
    decoded = model.decode(latents + strength * torch.randn_like(latents)).sample.float()
    return reconstruction_loss(latents, decoded, clips)


def main() -> None:
    parser = options(__doc__, minutes=13, batch=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--noise", type=float, default=0.25)
    parser.add_argument("--clips", type=int, default=4096, help="how many to draw and train on")
    args = started(parser)
    model = build()
    run = Run(args.out, args.minutes, {"autoencoder": model})
    model.to(run.device)
    model.quant_conv.weight.register_hook(lambda g: torch.cat([g[:CHANNELS], torch.zeros_like(g[CHANNELS:])]))
    model.quant_conv.bias.register_hook(lambda g: torch.cat([g[:CHANNELS], torch.zeros_like(g[CHANNELS:])]))
    tools = optimisers(model, args.rate, args.rate, "conv1|conv2|time_conv|resample|to_qkv|shortcut")
    pool = np.concatenate([draw(256, run.rng)[0] for _ in range(args.clips // 256)])
    for step in run.steps():
        set_rates(tools, run, warmup=30, decay=0.5)
        clips = to_unit(pool[run.rng.choice(len(pool), args.batch)]).to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16):
            loss, error = loss_of(model, clips, args.noise)
        descend(tools, loss, list(model.parameters()))
        run.log(step, every=25, loss=loss.item(), mse=error.item())
    run.save()


if __name__ == "__main__":
    start = time.time()
    main()
    print(f"{time.time() - start:.0f} s")
