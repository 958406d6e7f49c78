"""Train the video model: a Wan transformer on 2 x 2 x 2 latents, with its text encoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genscale.toy.moving_shapes import KINDS
from genscale.toy.shapes import COLOURS
from training.common import denoiser_options, started, stratified_sigma
from training.denoiser import train
from training.video_autoencoder import CHANNELS
from training.video_latents import SIDE
from training.video_text import PADDED, WIDTH, text_encoder, video_tokenizer

SHIFT = 2.0  # of the noise levels, when training and when sampling


class Padding(WanAttnProcessor):
    """Cross-attention to a context whose last token stands for many: `bias` [n, 1, 1, tokens] comes to the logits."""

    bias: torch.Tensor | None = None

    def __call__(
        self, attn: Any, hidden: Any, context: Any = None, mask: Any = None, rotary: Any = None
    ) -> Any:
        return super().__call__(attn, hidden, context, self.bias, rotary)


class VideoDenoiser(nn.Module):
    """The transformer, its text encoder, and a head for training only, which reads colours and kinds of cells."""

    def __init__(self, folder: Path, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        width = 32 * heads
        self.denoiser = WanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=heads,
            attention_head_dim=32,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            text_dim=WIDTH,
            freq_dim=128,
            ffn_dim=4 * width,
            num_layers=layers,
            rope_max_seq_len=64,
        )
        self.text_encoder = text_encoder(video_tokenizer(folder / "tokenizer"))
        self.head = nn.Linear(width, (SIDE // 2) ** 2 * (2 + len(COLOURS) + len(KINDS)))
        self.padding = Padding()
        self._seen: list[torch.Tensor] = []
        _start_as_identity(self.denoiser)
        for block in self.denoiser.blocks:
            block.attn2.set_processor(self.padding)
        self.denoiser.blocks[layers // 2].register_forward_hook(lambda _m, _i, out: self._seen.append(out))

    def forward(
        self, noisy: torch.Tensor, timestep: torch.Tensor, captions: torch.Tensor, padded: torch.Tensor
    ) -> torch.Tensor:
        """Velocities of `noisy` latents as the pipeline would ask for them with captions padded to `padded` [n] tokens.

        All padding is the same token of zeros, so one stands for m of them when log(m) is added to its logit.
        """
        length = (captions == 1).int().argmax(1) + 1  # up to the first end
        real = torch.arange(captions.shape[1], device=captions.device) < length[:, None]
        tokens = self.text_encoder(captions, real.long()).last_hidden_state
        context = nn.functional.pad(tokens * real[..., None], (0, 0, 0, 1))
        bias = torch.where(real, 0.0, -1e4)
        bias = torch.cat([bias, (padded - length).log()[:, None]], dim=1)
        self.padding.bias = bias[:, None, None]
        return self.denoiser(noisy, timestep, context, return_dict=False)[0]

    def auxiliary(self, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of colour and kind, `labels` [n, 2, 2, SIDE, SIDE], after a forward pass."""
        n, half = len(labels), SIDE // 2
        logits = self.head(self._seen.pop()).float()
        self._seen.clear()
        logits = logits.view(n, 2, 2, 2, half, half, -1).permute(0, 1, 2, 4, 3, 5, 6)
        colour, kind = logits.flatten(0, 5).split([1 + len(COLOURS), 1 + len(KINDS)], dim=1)
        colours, kinds = labels.long().unbind(1)
        return nn.functional.cross_entropy(colour, colours.flatten()) + nn.functional.cross_entropy(
            kind, kinds.flatten()
        )


def _start_as_identity(transformer: WanTransformer3DModel) -> None:
    """adaLN-zero: gates and outputs begin at nothing."""
    embedder = transformer.condition_embedder
    for parameter in (embedder.time_proj.weight, embedder.time_proj.bias, transformer.proj_out.weight):
        nn.init.zeros_(parameter)
    for block in transformer.blocks:
        nn.init.zeros_(block.scale_shift_table)
        nn.init.zeros_(block.attn2.to_out[0].weight)


def loss_of(model: VideoDenoiser, rows: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow matching loss and auxiliary loss; the number of padding tokens is drawn, so that it matters little."""
    clean = rows["latents"]
    n = len(clean)
    noise = torch.randn_like(clean)
    sigma = stratified_sigma(n, SHIFT, clean.device)
    level = sigma.view(n, 1, 1, 1, 1)
    least = rows["captions"].shape[1] + 1
    padded = torch.exp(math.log(least) + torch.rand(n, device=clean.device) * math.log(PADDED / least))
    with torch.autocast(clean.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        velocity = model((1 - level) * clean + level * noise, 1000 * sigma, rows["captions"], padded)
        extra = model.auxiliary(rows["labels"])
    return nn.functional.mse_loss(velocity.float(), noise - clean), extra


def main() -> None:
    parser = denoiser_options(
        __doc__, "training.video_latents", minutes=30, batch=128, muon="rate for the matrices of the blocks"
    )
    args = started(parser)
    inner = ".attn1.|.attn2.|.ffn.|.SelfAttention.|.DenseReluDense."
    model = VideoDenoiser(args.data)
    train(model, loss_of, args, inner)


if __name__ == "__main__":
    main()
