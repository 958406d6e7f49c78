"""Which commands take which options: groups of them, and how a command gets its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer

from genscale.cli import options as o

DEFAULTS: dict[Any, Any] = {o.Candidates: 16, o.Threshold: 0.5}

PROMPT = {"words": o.Words, "prompts": o.Prompts}
STEER = {
    "sampler": o.Sampler,
    "set_": o.Set,
    "calibration": o.Calibration,
    "verifier": o.Verifiers,
    "select": o.Select,
    "held_out": o.HeldOut,
    "per_frame": o.PerFrame,
    "ensemble": o.Ensemble,
    "budget": o.Limit,
    "stop": o.Stop,
    "boxes": o.Boxes,
    "mix": o.Mix,
    "guide": o.Guide,
}
DRAW = {
    "negative": o.Negative,
    "steps": o.Steps,
    "guidance": o.Guidance,
    "seed": o.Seed,
    "size": o.Size,
    "frames": o.Frames,
    "fps": o.Fps,
    "formats": o.Formats,
    "pipeline_args": o.Extra,
}
INPUTS = {"images": o.Images, "image": o.Image, "mask_image": o.Mask, "control_image": o.Control}
LOAD = {
    "model": o.Model,
    "dtype": o.Dtype,
    "device": o.Device,
    "device_map": o.DeviceMap,
    "attention": o.Attention,
    "offload": o.Offload,
    "compile": o.Compile,
    "vae_tiling": o.Tiling,
    "vae_slicing": o.Slicing,
    "lora": o.Lora,
    "variant": o.Variant,
    "revision": o.Revision,
    "token": o.Token,
    "trust_remote_code": o.Trust,
    "batch_size": o.Batch,
    "decode_batch": o.DecodeBatch,
}
JSON = {"as_json": o.Json}
"""Groups of options, by the parameter of the command."""

Command = TypeVar("Command", bound=Callable[..., int])


def takes(*groups: dict[str, Any], without: Iterable[str] = ()) -> Callable[[Command], Command]:
    """Give a command `(ctx, **given)` the options of the groups: typer reads them off its signature.

    Of one name in two groups the later is meant; options stand in the help in the order of the groups.
    """
    options: dict[str, Any] = {}
    for group in groups:
        options |= group
    kinds = inspect.Parameter

    def give(command: Command) -> Command:
        context = kinds("ctx", kinds.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        given = [
            kinds(name, kinds.KEYWORD_ONLY, annotation=kind, default=_default(kind))
            for name, kind in options.items()
            if name not in set(without)
        ]
        command.__signature__ = inspect.Signature([context, *given])  # type: ignore[attr-defined]
        return command

    return give


def _default(kind: Any) -> Any:
    """None, unless the option has a default of its own; of a flag that is never None: off."""
    if kind in DEFAULTS:
        return DEFAULTS[kind]
    return False if kind.__origin__ is bool else None
