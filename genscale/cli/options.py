"""The options that commands share, one name each: their types, panels and help."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from genscale.errors import UsageError

SEARCH, PICTURE, MODEL, RUN = "The search", "The image", "The model", "The run"


Completion = Callable[[str], list[str]]


def _option(
    names: str, text: str, panel: str, metavar: str | None = None, complete: Completion | None = None
) -> Any:
    return typer.Option(
        *names.split(),
        help=text,
        rich_help_panel=panel,
        metavar=metavar,
        show_default=False,
        autocompletion=complete,
    )


def complete_sampler(incomplete: str) -> list[str]:
    """Names of samplers that begin so, for the shell."""
    return _beginning(_names("sampler"), incomplete)


def complete_verifier(incomplete: str) -> list[str]:
    return _beginning(_names("verifier"), incomplete)


def complete_model(incomplete: str) -> list[str]:
    """Bundled toy models that begin so; hub ids and folders are the user's."""
    from genscale.pipelines.loading import EMBEDDED

    return _beginning(EMBEDDED, incomplete)


def _names(kind: str) -> Iterable[str]:
    from genscale.plugins import registry

    try:
        return registry.found(kind)
    except UsageError:  # the shell is told nothing
        return ()


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="What to generate; several prompts are searched together.",
        metavar="PROMPT...",
        show_default=False,
    ),
]
Prompts = Annotated[
    Path | None,
    _option("--prompts", "Prompts from a file: text (one a line), jsonl, json or csv.", PICTURE, "FILE"),
]
From = Annotated[
    Path | None,
    _option(
        "--from", "Do again what this image of genscale came from; other options override it.", RUN, "PNG"
    ),
]

Sampler = Annotated[
    str | None,
    _option(
        "--sampler",
        "How to search (best_of_n); `genscale samplers` lists them.",
        SEARCH,
        "NAME",
        complete_sampler,
    ),
]
Set = Annotated[
    list[str] | None,
    _option("--set", "An option of the sampler, as --NAME VALUE is. Repeatable.", SEARCH, "NAME=VALUE"),
]
Verifiers = Annotated[
    list[str] | None,
    _option(
        "--verifier",
        "What steers: NAME, NAME:WEIGHT, 'NAME(OPTION=VALUE)' or package.module:callable. Repeatable.",
        SEARCH,
        "NAME",
        complete_verifier,
    ),
]
Select = Annotated[
    list[str] | None,
    _option(
        "--select",
        "What picks the winner, if not the verifiers. Repeatable.",
        SEARCH,
        "NAME",
        complete_verifier,
    ),
]
HeldOut = Annotated[
    list[str] | None,
    _option(
        "--held-out --report",
        "What only measures, held out from the search; 'none' for nothing. Repeatable.",
        SEARCH,
        "NAME",
        complete_verifier,
    ),
]
Ensemble = Annotated[
    str | None,
    _option(
        "--ensemble", "How several verifiers make one score: weighted (default) or rank.", SEARCH, "NAME"
    ),
]
Limit = Annotated[
    str | None,
    _option(
        "--budget",
        "When to stop, for each prompt: 480nfe, 60s, 32calls, target=0.35, or several joined by commas.",
        SEARCH,
        "LIMITS",
    ),
]
Stop = Annotated[
    str | None,
    _option(
        "--stop",
        "When the scores of a prompt say that it is enough: patience:8 (so many without a new best), gain:0.02 (less "
        "than that to be expected of one more; 0.02sd in standard deviations), adaptive:0.9 (as many as reach that "
        "score with 95 in 100), or several joined by commas. Looked at after each wave of the sampler (--wave 4).",
        SEARCH,
        "RULES",
    ),
]
Calibration = Annotated[
    Path | None,
    _option(
        "--calibration",
        "Look at previews only where this file of `genscale calibrate-steps` trusts them.",
        SEARCH,
        "FILE",
    ),
]
Boxes = Annotated[
    Path | None,
    _option(
        "--boxes",
        "What should be where: a JSON file of texts with boxes or masks, which the verifiers look at, too.",
        SEARCH,
        "FILE",
    ),
]

Mix = Annotated[
    list[str] | None,
    _option(
        "--mix",
        "A further prediction at every step, and its weight; the model's own has what is left to 1. MODEL:WEIGHT of an "
        "toy model, Hugging Face id or folder that shares the latent space; base:WEIGHT, the model without its LoRA "
        "(base:-0.6 is reinforcement-learning guidance of scale 1.6); adapter:NAME:WEIGHT; 'prompt=TEXT:WEIGHT'. "
        "Repeatable.",
        SEARCH,
        "MODEL:WEIGHT",
    ),
]
Guide = Annotated[
    str | None,
    _option(
        "--guide",
        "How the branches of classifier-free guidance combine: 'cfg(7.5, 0.2, 0.8)' (only in that part of the run), "
        "'cfg(scale=7.5, schedule=linear)', 'cfg++(0.6)', or a rule of diffusers: apg, cfg-zero*, tcfg, fdg, slg, pag, "
        "seg, auto, such as 'apg(guidance_scale=7.5)'.",
        SEARCH,
        "RULE",
    ),
]

Negative = Annotated[str | None, _option("--negative", "Negative prompt.", PICTURE, "TEXT")]
Steps = Annotated[int | None, _option("--steps", "Denoising steps.", PICTURE)]
Guidance = Annotated[float | None, _option("--guidance", "Guidance scale.", PICTURE)]
Seed = Annotated[int | None, _option("--seed", "Seed; drawn and written down where none is given.", PICTURE)]
Size = Annotated[str | None, _option("--size", "Width and height, such as 1024x768.", PICTURE, "WxH")]
Frames = Annotated[int | None, _option("--frames", "Frames of a video.", PICTURE)]
Fps = Annotated[
    float | None,
    _option("--fps", "Frames a second of the video's files (the model's own, or 16).", PICTURE),
]
Formats = Annotated[
    str | None, _option("--formats", "Files of a video: mp4,gif (both), mp4 or gif.", PICTURE, "NAMES")
]
PerFrame = Annotated[
    int | None,
    _option(
        "--per-frame",
        "Of a video, how many evenly spaced frames verifiers of images see; the mean counts (8).",
        SEARCH,
        "FRAMES",
    ),
]
Images = Annotated[
    int | None, _option("--images", "How many of the best to write for each prompt (1).", PICTURE)
]
Image = Annotated[Path | None, _option("--image", "An image to start from.", PICTURE, "FILE")]
Mask = Annotated[Path | None, _option("--mask-image", "Where to paint on --image: white.", PICTURE, "FILE")]
Control = Annotated[
    Path | None, _option("--control-image", "The image that steers a ControlNet.", PICTURE, "FILE")
]
Extra = Annotated[
    str | None,
    _option(
        "--pipeline-args --pipeline-kwargs", "Further arguments of the pipeline, as JSON.", PICTURE, "JSON"
    ),
]

Model = Annotated[
    str | None,
    _option(
        "--model -m",
        "Embedded (shapes-flow), Hugging Face id, diffusers folder, .safetensors or .ckpt file.",
        MODEL,
        "NAME",
        complete_model,
    ),
]
Dtype = Annotated[str | None, _option("--dtype", "auto, float32, bfloat16 or float16.", MODEL, "NAME")]
Device = Annotated[
    str | None, _option("--device", "cpu, cuda, cuda:1, mps; the best there is by default.", MODEL, "NAME")
]
DeviceMap = Annotated[
    str | None,
    _option(
        "--device-map",
        "Spread the pipeline over the accelerators: balanced; or a device, to load onto it.",
        MODEL,
        "MAP",
    ),
]
Attention = Annotated[
    str | None,
    _option(
        "--attention --attention-backend",
        "Attention backend: xformers, native, flash, sage, ...",
        MODEL,
        "NAME",
    ),
]
Offload = Annotated[
    str | None,
    _option(
        "--offload --cpu-offload", "Keep weights off the GPU: model, sequential or group.", MODEL, "NAME"
    ),
]
Tiling = Annotated[
    bool | None,
    _option("--vae-tiling", "Decode in tiles, videos also in groups of frames: less memory.", MODEL),
]
Slicing = Annotated[bool | None, _option("--vae-slicing", "Decode one after the other: less memory.", MODEL)]
Compile = Annotated[bool | None, _option("--compile", "Compile the denoiser.", MODEL)]
Lora = Annotated[
    list[str] | None,
    _option("--lora", "A LoRA file or Hugging Face id, with :SCALE at will. Repeatable.", MODEL, "NAME"),
]
Variant = Annotated[str | None, _option("--variant", "Weights' variant, such as fp16.", MODEL, "NAME")]
Revision = Annotated[str | None, _option("--revision", "Hub revision.", MODEL, "NAME")]
Token = Annotated[
    str | None,
    _option("--token", "Token of the hub (HF_TOKEN); never written to a file.", MODEL, "TEXT"),
]
Trust = Annotated[bool | None, _option("--trust-remote-code", "Run code that the model brings.", MODEL)]

Batch = Annotated[
    int | None, _option("--batch-size", "Latents through the model at once, at most (16).", RUN)
]
DecodeBatch = Annotated[
    int | None,
    _option(
        "--decode-batch", "Decoded and judged at once, at most (videos: 1, images: as --batch-size).", RUN
    ),
]
Out = Annotated[
    Path | None,
    _option(
        "--out --output -o",
        "Folder to write to (runs/DATE); the folder of this very run is continued.",
        RUN,
        "DIR",
    ),
]
Fresh = Annotated[Path | None, _option("--out", "Folder to write to (runs/DATE).", RUN, "DIR")]
Metadata = Annotated[
    bool | None, _option("--metadata/--no-metadata", "Whether images say how they were made (yes).", RUN)
]
DryRun = Annotated[bool, _option("--dry-run", "Print plan and cost; generate nothing.", RUN)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RUN)]

Candidates = Annotated[int, _option("--candidates", "Images of each prompt (16).", SEARCH)]
Threshold = Annotated[
    float, _option("--threshold", "Mean rank correlation from which on previews are trusted (0.5).", SEARCH)
]
