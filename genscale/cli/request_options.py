"""From the options of a command to a request, and JSON for an answer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from genscale.errors import UsageError, quoted


def request_of(
    ctx: typer.Context,
    start: Mapping[str, Any] | None = None,
    clips: bool = False,
    prompts: tuple[str, ...] | None = None,
) -> Any:
    """The request that a command's options make. They override the request of --from, or `start`.

    clips: whether it makes videos, whatever --from says. prompts: where they are not those of the options.
    """
    from genscale.plugins import options, registry
    from genscale.plugins.automatic import AUTO
    from genscale.runs.complete_request import sampler_of
    from genscale.runs.read_request import load_request
    from genscale.runs.request import Request

    given, file = ctx.params, ctx.params.get("from_")
    request = Request(**(start or {})) if file is None else load_request(file)
    request = replace(request, clips=True) if clips else request
    fields = request_fields(given)
    _check_imports(request, fields, file)
    asked = replace(request, **fields)
    fields["sampler"] = name = sampler_of(asked)
    set_ = options.pairs(given["set_"] or [])
    if asked.sampler == AUTO:
        named = [
            w.lstrip("-").partition("=")[0].replace("-", "_")
            for w in given["words"] or []
            if w.startswith("-")
        ]
        options.check_automatic(name, [*named, *set_])
    cls = registry.load("sampler", name)
    hints = options.field_types(cls)
    flags = [flag for parameter in ctx.command.params for flag in parameter.opts if flag.startswith("--")]
    words, texts = options.split(given["words"] or [], hints, flags)
    # --width may be an option of the sampler, so that it may change.
    if "width" in hints and given["image_width"] is not None and given["image_height"] is None:
        texts["width"] = str(fields.pop("width"))  # --width alone is the sampler's option
    if given["search_size"] is not None:
        texts["candidates"] = given["search_size"]
    own = options.typed("sampler", name, cls, texts | set_)
    if prompts is not None and words:
        raise UsageError(f"{quoted(words[0])} is one word too many: the prompts are those of --prompts.")
    prompts = prompts_of(words, given["prompts"], request.prompts) if prompts is None else prompts
    layout = fields.get("layout")
    if layout is not None and ":" not in layout and given["prompts"] is not None and not words:
        fields["layout"] = (
            f"{layout}:{os.path.abspath(given['prompts'])}"  # for what it says beside the prompts
        )
    kept = request.sampler_fields if name == request.sampler else {}
    found = _calibrated(given["calibration"], name, own)
    return replace(request, **fields, prompts=prompts, sampler_fields={**kept, **found, **own})


def _check_imports(request: Any, fields: Mapping[str, Any], file: Path | None) -> None:
    """A file from elsewhere may not import modules by its verifiers: the user must name them again."""
    from genscale.runs import verifier_specs
    from genscale.runs.named_code import names_code

    for role, option in (("verifiers", "verifier"), ("select", "select"), ("held_out", "held-out")):
        if role not in fields and verifier_specs.needs_trust(getattr(request, role)):
            raise UsageError(
                f"'{file}' asks for code from a module or for a server: name it again with --{option}."
            )
    if file is not None and "model" not in fields and names_code(request.model):
        raise UsageError(
            f"'{file}' asks for code from a module, {request.model}: name it again with --model."
        )


def prompts_of(words: Sequence[str], file: Path | None, kept: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The prompts given as words and in a file; where there are none, those kept."""
    from genscale.runs.prompt_files import read_prompts

    prompts = (*words, *([] if file is None else read_prompts(file)))
    if any(not prompt.strip() for prompt in prompts) or not (prompts or kept):
        raise UsageError('there is no prompt: give one in quotes ("a red star") or a file with --prompts.')
    return prompts or kept


def _calibrated(file: Path | None, sampler: str, given: dict[str, Any]) -> dict[str, Any]:
    """The sampler's fields that follow from a calibration; options that were given override them."""
    if file is None:
        return {}
    from genscale.results import calibrated_options
    from genscale.results.calibration import Calibration

    return calibrated_options.fields(Calibration.load(file), sampler, given)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))


def request_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request from the options that were given, by their metadata; the others are left out."""
    from genscale.cli.options import of_request

    if given.get("token"):
        os.environ["HF_TOKEN"] = given["token"]  # read by huggingface_hub; no file of ours holds it
    found: dict[str, Any] = {}
    flags: dict[str, str] = {}
    for name, how in of_request().items():
        if given.get(name) in (None, [], ()):
            continue
        value = how.value(given[name])
        fields = how.sets or (name,)
        made = dict(zip(fields, value if len(fields) > 1 else (value,), strict=True))
        twice = next((field for field in made if field in found), None)
        if twice is not None:
            raise UsageError(f"{flags[twice]} and {how.flag} are both given: give one of the two.")
        found |= made
        flags |= dict.fromkeys(made, how.flag)
    return found
