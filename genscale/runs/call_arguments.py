"""From a request to the arguments of a pipeline's call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genscale.errors import UsageError, did_you_mean
from genscale.key import Key
from genscale.media_items import IMAGE, VIDEO
from genscale.report.read_image import read_image, read_mask
from genscale.runs.request import Request

_LENGTHS = ("audio_length_in_s", "audio_end_in_s", "audio_duration_s", "audio_duration", "duration")
"""What pipelines call the length of a sound in seconds."""
_OPTIONS = {"image": "image", "mask_image": "mask-image", "control_image": "control-image"}


def input_images(request: Request) -> dict[str, Any]:
    """The opened input images, resized to the requested size, since not every pipeline does that itself."""
    from PIL import Image

    found = {}
    for name, option in _OPTIONS.items():
        path = getattr(request, name)
        if path is None:
            continue
        read = read_mask if name == "mask_image" else read_image
        image = read(path, f"--{option} '{path}'")
        if request.width and request.height:
            image = image.resize((request.width, request.height), Image.Resampling.LANCZOS)
        found[name] = image
    if "mask_image" in found and "image" not in found:
        raise UsageError("--mask-image says where to paint on --image: give both.")
    return found


def call_arguments(pipe: Any, request: Request, images: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the pipeline's call. UsageError: it does not take one that the request asks for."""
    import torch

    from genscale.pipelines.call_signature import COUNTS
    from genscale.pipelines.generator_signature import generator_name
    from genscale.pipelines.loading import takes
    from genscale.pipelines.modular_blocks import guiders_of
    from genscale.pipelines.output_kinds import possible_kinds

    taken = takes(pipe)
    n = len(request.prompts)
    call: dict[str, Any] = {"prompt": list(request.prompts) if n > 1 else request.prompts[0]}
    asked = _asked(request, taken) | _named_images(images, pipe, taken)
    if request.negative is not None:
        asked["negative_prompt"] = ([request.negative] * n if n > 1 else request.negative, "--negative")
    if request.images > 1:
        word = next((name for name in COUNTS if name in taken), COUNTS[0])
        asked[word] = (request.images, "--images")
    for name, (value, option) in asked.items():
        if name not in taken:
            guider = option == "--guidance" and guiders_of(pipe)
            instead = f", and give its guider as --guide 'cfg({value:g})'" if guider else ""
            raise UsageError(f"{generator_name(pipe)} takes no {name}: leave {option} out{instead}.")
        call[name] = value
    call |= _extra(request.pipeline_args, pipe, taken)
    if "prompt" not in taken:
        raise UsageError(
            f"{generator_name(pipe)} takes no prompt: call genscale.scale from Python with its arguments."
        )
    seeds = [request.seed or 0] if request.from_python else prompt_seeds(request.prompts, request.seed or 0)
    if "generator" not in taken and "seed" in taken:  # a function that is called as a whole
        call["seed"] = seeds if len(seeds) > 1 else seeds[0]
    if "generator" in taken:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        call["generator"] = generators if len(generators) > 1 else generators[0]
    if "output_type" in taken and possible_kinds(pipe) <= {
        IMAGE,
        VIDEO,
    }:  # of other kinds the pipeline's default
        call["output_type"] = "pil"
    return call


def prompt_seeds(prompts: Sequence[str], seed: int) -> list[int]:
    """The seed of each prompt's own generator, which does not depend on the other prompts.

    All prompts have the same one, as if each were generated alone; a prompt that comes again has another.
    """
    found = []
    for i, prompt in enumerate(prompts):
        earlier = prompts[:i].count(prompt)
        again = Key.from_seed(seed).fold("prompt", prompt, earlier).fold("generator")
        found.append(seed if earlier == 0 else int(again.uniform(1)[0] * 2**53))
    return found


def _asked(request: Request, taken: set[str]) -> dict[str, tuple[Any, str]]:
    """{argument: (value, the option it came from)}."""
    guidance = (
        "true_cfg_scale" if "guidance_scale" not in taken and "true_cfg_scale" in taken else "guidance_scale"
    )
    values = {
        "num_inference_steps": (request.steps, "--steps"),
        guidance: (request.guidance, "--guidance"),
        "num_frames": (request.frames, "--frames"),
        next((name for name in _LENGTHS if name in taken), _LENGTHS[0]): (request.seconds, "--seconds"),
    }
    if not (request.image and "width" not in taken):  # the image already has the size
        values |= {"width": (request.width, "--size"), "height": (request.height, "--size")}
    return {name: pair for name, pair in values.items() if pair[0] is not None}


def _named_images(images: Mapping[str, Any], pipe: Any, taken: set[str]) -> dict[str, tuple[Any, str]]:
    """A ControlNet pipeline without an input image calls its control image `image`."""
    named = {}
    for name, image in images.items():
        word = name
        if name == "control_image" and name not in taken and getattr(pipe, "controlnet", None) is not None:
            word = "image"
        named[word] = (image, f"--{_OPTIONS[name]}")
    return named


def _extra(extra: Mapping[str, Any], pipe: Any, taken: set[str]) -> dict[str, Any]:
    from genscale.pipelines.generator_signature import generator_name

    for name in extra:
        hint = did_you_mean(name, taken)
        if name not in taken and (hint or "kwargs" not in taken):  # **kwargs would hide a misspelt name
            raise UsageError(f"--pipeline-args: {generator_name(pipe)} takes no '{name}'{hint}.")
    return dict(extra)
