"""Train the flow model: an SD3 transformer on 16 tokens of 2 x 2 latents, with its text encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel

from training.common import denoiser_options, started, stratified_sigma
from training.denoiser import Denoiser, text_encoder, train
from training.text import WIDTH

SHIFT = 1.5  # of the noise levels, when training and when sampling


def build(folder: Path, layers: int = 6, heads: int = 5) -> Denoiser:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32 * heads,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    for block in transformer.transformer_blocks:  # adaLN-zero: every block begins as the identity
        for norm in (block.norm1, block.norm1_context):
            torch.nn.init.zeros_(norm.linear.weight)
            torch.nn.init.zeros_(norm.linear.bias)
    torch.nn.init.zeros_(transformer.norm_out.linear.weight)
    torch.nn.init.zeros_(transformer.proj_out.weight)
    middle = transformer.transformer_blocks[layers // 2]
    return Denoiser(transformer, text_encoder(folder / "tokenizer"), middle, width=32 * heads, cells=4)


def conditions(model: Denoiser, captions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [n, 11, 2 * WIDTH] and pooled [n, 2 * WIDTH], as the pipeline with one encoder twice.

    The eleventh token is zero: it is what the silent third text encoder gives (see
    training.export).
    """
    output = model.text_encoder(captions, output_hidden_states=True)
    tokens = torch.cat([output.hidden_states[-2]] * 2, dim=-1)
    tokens = torch.nn.functional.pad(tokens, (0, 0, 0, 1))
    return tokens, torch.cat([output.text_embeds] * 2, dim=-1)


def loss_of(model: Denoiser, rows: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    clean = rows["latents"]
    n = len(clean)
    noise = torch.randn_like(clean)
    sigma = stratified_sigma(n, SHIFT, clean.device)
    level = sigma.view(n, 1, 1, 1)
    tokens, pooled = conditions(model, rows["captions"])
    velocity = model.denoiser(
        (1 - level) * clean + level * noise, tokens, pooled, 1000 * sigma, return_dict=False
    )[0]
    loss = torch.nn.functional.mse_loss(velocity, noise - clean)
    return loss, model.auxiliary(rows["labels"], lambda output: output[1])


def main() -> None:
    parser = denoiser_options(
        __doc__, "training.latents", minutes=90, batch=192,
        muon="rate for the matrices of the blocks; 0: AdamW there too",
    )  # fmt: skip
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument(
        "--compile", action="store_true", help="a fifth faster on a CPU, after some minutes of compiling"
    )
    args = started(parser)
    model = build(args.data, args.layers)
    inner = ".attn.|.ff.|.ff_context.|.mlp.|.self_attn."
    train(model, loss_of, args, inner, compiled=args.compile)


if __name__ == "__main__":
    main()
