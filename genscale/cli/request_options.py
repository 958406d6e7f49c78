"""What the words of a command line ask for, and JSON for an answer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from genscale.errors import UsageError


def request_of(ctx: typer.Context, start: Mapping[str, Any] | None = None) -> Any:
    """The request that a command's options make, on top of that in --from, or of the fields that it starts with."""
    from genscale.plugins import options, registry
    from genscale.runs import verifier_specs
    from genscale.runs.request import Request, load_request

    given = ctx.params
    flags = [flag for parameter in ctx.command.params for flag in parameter.opts if flag.startswith("--")]
    request = Request(**(start or {})) if given["from_"] is None else load_request(given["from_"])
    fields = request_fields(given)
    for role, option in (("verifiers", "verifier"), ("select", "select"), ("held_out", "held_out")):
        if role not in fields and verifier_specs.imports_code(getattr(request, role)):
            raise UsageError(
                f"'{given['from_']}' asks for code from a module: name it again with --{option}."
            )
    name = fields.get("sampler", request.sampler)
    hints = options.field_types(registry.load("sampler", name))
    words, own = options.split(given["words"] or [], hints, flags)
    own |= options.pairs(given["set_"] or [])
    prompts = prompts_of(words, given["prompts"], request.prompts)
    kept = request.sampler_fields if name == request.sampler else {}
    found = _calibrated(given["calibration"], name, own)
    return replace(request, **fields, prompts=prompts, sampler_fields={**kept, **found, **own})


def prompts_of(words: Sequence[str], file: Path | None, kept: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The prompts that were given as words, and those of a file; where there are none, those kept."""
    from genscale.runs.prompt_files import read_prompts

    prompts = (*words, *([] if file is None else read_prompts(file)))
    if any(not prompt.strip() for prompt in prompts) or not (prompts or kept):
        raise UsageError('there is no prompt: give one in quotes ("a red star") or a file with --prompts.')
    return prompts or kept


def _calibrated(file: Path | None, sampler: str, given: dict[str, str]) -> dict[str, Any]:
    """The sampler's fields that follow from a calibration; those that were given win."""
    if file is None:
        return {}
    from genscale.results import calibrated_options
    from genscale.results.calibration import Calibration

    return calibrated_options.fields(Calibration.load(file), sampler, given)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))


# Parameters of a command that are fields of the request, too.
_SAME = (
    *("model", "sampler", "ensemble", "budget", "stop", "guide", "per_frame"),
    *("negative", "steps", "guidance", "seed", "frames", "fps", "images", "metadata"),
    *("dtype", "device", "device_map", "attention", "offload", "compile", "vae_tiling", "vae_slicing"),
    *("variant", "revision", "trust_remote_code", "batch_size", "decode_batch"),
)
_LISTS = {"verifier": "verifiers", "select": "select", "held_out": "held_out", "lora": "lora", "mix": "mix"}
_FILES = ("image", "mask_image", "control_image", "boxes")


def request_fields(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a Request from the options that were given; what was not given is left out."""
    fields = {name: given[name] for name in _SAME if given.get(name) is not None}
    fields |= {field: tuple(given[name]) for name, field in _LISTS.items() if given.get(name)}
    fields |= {name: str(given[name]) for name in _FILES if given.get(name) is not None}
    if given.get("size") is not None:
        fields["width"], fields["height"] = _size(given["size"])
    if given.get("pipeline_args") is not None:
        fields["pipeline_args"] = _json_object(given["pipeline_args"])
    if given.get("formats") is not None:
        fields["formats"] = tuple(name.strip().lower() for name in given["formats"].split(","))
    for name in ("steps", "frames", "images", "batch_size", "decode_batch", "per_frame"):
        if fields.get(name, 1) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {fields[name]} must be at least 1.")
    if not 0 < fields.get("fps", 1) <= 240:
        raise UsageError(f"--fps {fields['fps']} must be above 0, and 240 at most.")
    if given.get("token"):
        os.environ["HF_TOKEN"] = given[
            "token"
        ]  # where the hub's libraries look for it, and no file of ours does
    if not 0 <= fields.get("seed", 0) < 2**64:
        raise UsageError(f"--seed {fields['seed']} must be 0 or more, and below 2**64.")
    return fields


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)(?:[xX×]([1-9]\d*))?", text.strip())
    if match is None:
        raise UsageError(f"--size '{text}' cannot be read: write WIDTHxHEIGHT, such as 1024x768.")
    return int(match[1]), int(match[2] or match[1])


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"--pipeline-args is not JSON ({error.msg}): write '{{\"strength\": 0.6}}'."
        ) from None
    if not isinstance(found, dict):
        raise UsageError("--pipeline-args must be a JSON object, such as '{\"strength\": 0.6}'.")
    return found
