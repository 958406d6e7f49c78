"""Write a checkpoint as an ordinary diffusers folder in half precision, in place of an older one."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from transformers import CLIPTextModel, FunnelBaseModel, FunnelConfig

from training import autoencoder, diffusion, flow
from training.text import WIDTH, text_config, tokenizer


def silent_encoder(vocabulary: int) -> FunnelBaseModel:
    """A third text encoder that turns any text of up to 256 tokens into one token of zeros.

    StableDiffusion3Pipeline without a third encoder appends as many zeros as `max_sequence_length`,
    256 unless the caller says otherwise, and the transformer would spend nine tenths of its time on
    them. A funnel of nine halvings leaves one.
    """
    config = FunnelConfig(
        vocab_size=vocabulary,
        d_model=2 * WIDTH,
        n_head=1,
        d_head=8,
        d_inner=8,
        block_sizes=[1] * 9,
        num_decoder_layers=0,
        separate_cls=False,
    )
    model = FunnelBaseModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def flow_pipeline(state: dict[str, Any], vae: AutoencoderTiny, scratch: Path) -> StableDiffusion3Pipeline:
    words = tokenizer(scratch / "words")
    model = flow.build(
        scratch,
        layers=1
        + max(int(name.split(".")[2]) for name in state if name.startswith("denoiser.transformer_blocks")),
    )
    model.load_state_dict(state)
    return StableDiffusion3Pipeline(
        transformer=model.denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=flow.SHIFT),
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=words,
        text_encoder_2=model.text_encoder,
        tokenizer_2=words,
        text_encoder_3=silent_encoder(len(words)),
        tokenizer_3=words,
    )


def diffusion_pipeline(state: dict[str, Any], vae: AutoencoderTiny, scratch: Path) -> StableDiffusionPipeline:
    words = tokenizer(scratch / "words")
    model = diffusion.build(scratch)
    model.load_state_dict(state)
    plain = CLIPTextModel(text_config(words))
    inner = getattr(plain, "text_model", plain)  # transformers 5 has no such level here
    inner.load_state_dict(model.text_encoder.text_model.state_dict())
    return StableDiffusionPipeline(
        unet=model.denoiser,
        scheduler=diffusion.schedule(),
        vae=vae,
        text_encoder=plain,
        tokenizer=words,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def load_autoencoder(checkpoint: Path) -> AutoencoderTiny:
    model = autoencoder.build()
    model.load_state_dict(
        torch.load(checkpoint, map_location="cpu", weights_only=False)["modules"]["autoencoder"]
    )
    return model


def load_as_float32(folder: Path) -> None:
    """Have transformers load what is stored in half precision as float32 where nobody says
    otherwise, as diffusers does."""
    for path in folder.glob("text_encoder*/config.json"):
        config = json.loads(path.read_text())
        config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")


def replace(folder: Path, new: Path) -> None:
    """Put `new` where `folder` is; the place is empty only between two renames."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def weights(checkpoint: Path, raw: bool) -> dict[str, Any]:
    """The average of a denoiser's weights; raw: the last ones."""
    modules = torch.load(checkpoint, map_location="cpu", weights_only=False)["modules"]
    return dict(modules["model" if raw else "average"])


def write_folder(out: Path, make: Callable[[Path], Any], full: bool = False) -> None:
    """Save what `make` builds in a scratch folder, in half precision or `full`, in place of `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".new-") as scratch:
        new = Path(scratch) / "model"
        made = make(Path(scratch))
        made.to(dtype=torch.float32 if full else torch.float16).save_pretrained(new)
        load_as_float32(new)
        replace(out, new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("flow", "diffusion", "autoencoder"))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, help="checkpoint of the autoencoder")
    parser.add_argument("--raw", action="store_true", help="the last weights, not their average")
    parser.add_argument("--full", action="store_true", help="keep float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    def pipeline(scratch: Path) -> Any:
        if args.model == "autoencoder":
            return load_autoencoder(args.checkpoint)
        make = flow_pipeline if args.model == "flow" else diffusion_pipeline
        return make(weights(args.checkpoint, args.raw), load_autoencoder(args.autoencoder), scratch)

    write_folder(args.out, pipeline, args.full)


if __name__ == "__main__":
    main()
