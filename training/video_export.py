"""Write the video model as an ordinary diffusers folder in half precision, in place of an older one."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from training.export import weights, write_folder
from training.video_autoencoder import load
from training.video_flow import SHIFT, VideoDenoiser
from training.video_text import video_tokenizer


def pipeline(checkpoint: Path, autoencoder: Path, scratch: Path, raw: bool) -> WanPipeline:
    model = VideoDenoiser(scratch)
    model.load_state_dict(weights(checkpoint, raw))
    for block in model.denoiser.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    return WanPipeline(
        tokenizer=video_tokenizer(scratch / "words"),
        text_encoder=model.text_encoder,
        vae=load(autoencoder),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        transformer=model.denoiser,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True, help="checkpoint of the autoencoder")
    parser.add_argument("--raw", action="store_true", help="the last weights, not their average")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_folder(args.out, lambda scratch: pipeline(args.checkpoint, args.autoencoder, scratch, args.raw))


if __name__ == "__main__":
    main()
