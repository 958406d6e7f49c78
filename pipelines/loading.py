"""`load_pipeline`: a bundled toy model, a diffusers folder, a single file or a Hugging Face model by its name.

The command line and the demo load pipelines so. `genscale.scale` takes any pipeline, however it was loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import genscale
from genscale.errors import UsageError
from genscale.pipelines import checkpoints, placement
from genscale.pipelines.call_signature import signature_of
from genscale.pipelines.output_kinds import makes_audio
from genscale.pipelines.placement import first_line
from genscale.plugins.limits import shown
from genscale.quiet_libraries import quietly


@dataclass(frozen=True)
class BundledModel:
    """Default settings of a bundled toy model.

    size: of a side, in pixels. frames: of a video; None for models of images. tokens: the pipeline's
    `max_sequence_length`, where it matters (WanPipeline pads captions to 512). fps: frames a second of the video file.
    """

    about: str
    steps: int
    guidance: float
    size: int = 64
    verifier: str = "shapes_clip"
    held_out: str = "shapes"
    frames: int | None = None
    tokens: int | None = None
    fps: float | None = None


EMBEDDED: dict[str, BundledModel] = {
    "shapes-flow": BundledModel("a flow transformer", steps=20, guidance=3.0),
    "shapes-diffusion": BundledModel("a diffusion U-Net", steps=20, guidance=3.0),
    "shapes-video": BundledModel(
        "a flow transformer of videos",
        steps=12,
        guidance=2.0,
        size=32,
        verifier="shapes_video_clip",
        held_out="moving_shapes",
        frames=5,
        fps=4,
        tokens=16,
    ),
}


def folder_of(name: str) -> Path:
    """The folder of a bundled toy model."""
    return Path(genscale.__file__).parent / "models" / name


def load_pipeline(
    model: str = "shapes-flow",
    *,
    dtype: Any = None,
    device: Any = None,
    offload: str | None = None,
    attention: str | None = None,
    compile: bool = False,
    device_map: str | None = None,
    vae_tiling: bool = False,
    vae_slicing: bool = False,
    lora: Sequence[str] = (),
    variant: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    images: Collection[str] = (),
) -> Any:
    """A ready DiffusionPipeline, or ModularPipeline where the folder or repository has its index only.

    model: a bundled toy model, a local diffusers folder, a single file (.safetensors, .ckpt) or a Hugging Face id.
    dtype: a torch.dtype or its name; None or "auto" is float32 on the CPU, bfloat16 where the GPU has it, or
        else float16. device: CUDA, else MPS, else the CPU. offload: "model", "sequential" or "group".
    attention: "xformers", or any backend that diffusers knows. lora: files or hub ids, each with `:scale` if
        it is not 1.
    device_map: "balanced" over the accelerators, or a device, as diffusers has it; in the place of device and offload.
    vae_tiling: decode in tiles, and videos in groups of frames (seams can show). vae_slicing: decode one image of a
        batch after the other.
    images: which of "image" and "mask_image" the call will give; a text-to-image pipeline then becomes
        the image-to-image or inpainting pipeline on the same weights.
    """
    lora = [lora] if isinstance(lora, str) else lora
    if not isinstance(model, str | Path) or not str(model):
        raise UsageError(f"model={shown(model)} must be the name of a model, a folder or a file.")
    if not isinstance(lora, list | tuple) or not all(isinstance(spec, str) for spec in lora):
        raise UsageError(f"lora={shown(lora)} must be names of LoRAs.")
    if device_map is not None and (device is not None or offload is not None):
        raise UsageError("device_map places the whole pipeline: leave device and offload out.")
    place = placement.device_of(device)
    if offload is not None:
        placement.check_offload(offload, place)
    precision = placement.dtype_of(dtype, place)
    hub: dict[str, Any] = {"variant": variant, "revision": revision, "token": token, "device_map": device_map}
    hub["trust_remote_code"] = trust_remote_code
    source = str(folder_of(model)) if model in EMBEDDED else str(model)
    with quietly("diffusers", "transformers") if model in EMBEDDED else nullcontext():
        pipe = checkpoints.load(source, precision, {k: v for k, v in hub.items() if v}, known=EMBEDDED)
    pipe = _pipeline_for(pipe, images)
    _load_loras(pipe, lora, token)
    if vae_tiling or vae_slicing:
        placement.decode_in_parts(pipe, vae_tiling, vae_slicing)
    if offload is None and device_map is None:
        pipe.to(place)
    elif offload is not None:
        placement.offload(pipe, offload, place)
    if attention is not None:
        placement.set_attention(pipe, attention)
    if compile:
        placement.compile_denoisers(pipe)
    return pipe


def takes(pipe: Any) -> set[str]:
    """Names of the arguments that a pipeline's call takes."""
    from genscale.pipelines.generator_signature import Signature

    if not isinstance(getattr(pipe, "components", None), Mapping):
        found = Signature.read(pipe)
        return AnyName(found.parameters) if found.others else set(found.parameters)
    return set(signature_of(pipe).names)


class AnyName(set[str]):
    """The names that a function gives its arguments, where it takes all others, too."""

    def __contains__(self, name: object) -> bool:
        return True


def makes_videos(pipe: Any) -> bool:
    """Whether a pipeline or function gives videos: those that do take a number of frames, or of videos, or say so by an
    attribute `makes_videos`."""
    own: bool | None = getattr(pipe, "makes_videos", None)
    if own is not None:
        return bool(own)
    return bool(takes(pipe) & {"num_frames", "num_videos_per_prompt", "video_length"})


def makes_large_items(pipe: Any) -> bool:
    """Whether a pipeline makes videos or audio, which are decoded one by one unless told otherwise."""
    return makes_videos(pipe) or makes_audio(pipe)


def _pipeline_for(pipe: Any, images: Collection[str]) -> Any:
    """The pipeline on the same weights that takes these images."""
    controlled = getattr(pipe, "controlnet", None) is not None  # there, `image` may be the control image
    mine = takes(pipe) - ({"image"} if controlled and "control_image" not in takes(pipe) else set())
    missing = [p for p in images if p not in mine]
    if not missing:
        return pipe
    import diffusers

    auto = (
        diffusers.AutoPipelineForInpainting
        if "mask_image" in images
        else diffusers.AutoPipelineForImage2Image
    )
    try:
        return auto.from_pipe(pipe)
    except ValueError:
        raise UsageError(
            f"{type(pipe).__name__} takes no {missing[0]}, and has no sister that does."
        ) from None


def _load_loras(pipe: Any, lora: Sequence[str], token: str | None) -> None:
    if not lora:
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise UsageError(f"{type(pipe).__name__} takes no LoRA.")
    names, scales = [], []
    for i, spec in enumerate(lora):
        match = re.fullmatch(r"(.+?)(?::([-+]?\d*\.?\d+))?", spec)
        source, scale = (match[1], float(match[2] or 1)) if match else (spec, 1.0)
        path = Path(source).expanduser()
        where = (str(path.parent), {"weight_name": path.name}) if os.path.isfile(path) else (source, {})
        try:
            pipe.load_lora_weights(where[0], adapter_name=f"lora{i}", token=token, **where[1])
        except Exception as error:
            raise UsageError(f"LoRA '{source}' cannot be loaded: {first_line(error)}") from error
        names.append(f"lora{i}")
        scales.append(scale)
    pipe.set_adapters(names, scales)
