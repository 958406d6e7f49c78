"""Train the diffusion model: a U-Net on 8 x 8 latents, with its text encoder, to predict the noise."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from training.common import denoiser_options, started
from training.denoiser import Denoiser, text_encoder, train
from training.text import WIDTH

WEIGHT = 8.0  # most that a noise level counts, where the loss is that of the velocity: 1 / alpha^2


def schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def build(folder: Path, outer: int = 48, inner: int = 144) -> Denoiser:
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(outer, inner),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # in effect the number of heads
        norm_num_groups=16,
    )
    return Denoiser(unet, text_encoder(folder / "tokenizer"), unet.mid_block, width=inner, cells=4)


def loss_of(model: Denoiser, rows: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    clean = rows["latents"]
    n = len(clean)
    noise = torch.randn_like(clean)
    scheduler = schedule()
    times = (
        ((torch.randperm(n) + torch.rand(n)) / n * scheduler.config.num_train_timesteps)
        .long()
        .to(clean.device)
    )
    alpha = scheduler.alphas_cumprod.to(clean.device)[times].view(n, 1, 1, 1)
    tokens = model.text_encoder(rows["captions"]).last_hidden_state
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    predicted = model.denoiser(noisy, times, tokens, return_dict=False)[0]
    weight = (1 / alpha).clamp(max=WEIGHT)
    loss = (weight * (predicted - noise) ** 2).mean()
    return loss, model.auxiliary(rows["labels"], lambda output: output.flatten(2).mT)


def main() -> None:
    parser = denoiser_options(
        __doc__, "training.latents", minutes=80, batch=192,
        muon="rate for the kernels and matrices of the blocks; 0: AdamW there too",
    )  # fmt: skip
    args = started(parser)
    model = build(args.data)
    model.denoiser.to(memory_format=torch.channels_last)
    inner = ".resnets.|.attentions.|.mlp.|.self_attn.|samplers."
    train(model, loss_of, args, inner)


if __name__ == "__main__":
    main()
