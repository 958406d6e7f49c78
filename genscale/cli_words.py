"""What the words of a command line ask for, and JSON for an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genscale import cli_options as o
from genscale.errors import Refusal


def request_of(given: dict[str, Any], flags: list[str]) -> Any:
    """The request that the options make, on top of that in --from."""
    from genscale import jury, plugins, sampler_options
    from genscale.request import Request, load_request

    request = Request() if given["from_"] is None else load_request(given["from_"])
    fields = o.request_fields(given)
    for role, option in (("verifiers", "verifier"), ("select", "select"), ("report", "report")):
        if role not in fields and jury.foreign(getattr(request, role)):
            raise Refusal(f"'{given['from_']}' asks for code from a module: name it again with --{option}.")
    name = fields.get("sampler", request.sampler)
    hints = sampler_options.field_types(plugins.load("sampler", name))
    words, own = sampler_options.split(given["words"] or [], hints, flags)
    own |= sampler_options.pairs(given["set_"] or [])
    prompts = prompts_of(words, given["prompts"], request.prompts)
    kept = request.sampler_fields if name == request.sampler else {}
    found = _calibrated(given["calibration"], name, own)
    return replace(request, **fields, prompts=prompts, sampler_fields={**kept, **found, **own})


def prompts_of(words: Sequence[str], file: Path | None, kept: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The prompts that were given as words, and those of a file; where there are none, those kept."""
    from genscale.prompts import read_prompts

    prompts = (*words, *([] if file is None else read_prompts(file)))
    if any(not prompt.strip() for prompt in prompts) or not (prompts or kept):
        raise Refusal('there is no prompt: give one in quotes ("a red star") or a file with --prompts.')
    return prompts or kept


def _calibrated(file: Path | None, sampler: str, given: dict[str, str]) -> dict[str, Any]:
    """The sampler's fields that follow from a calibration; those that were given win."""
    if file is None:
        return {}
    from genscale import scoring_window
    from genscale.calibration import Calibration

    return scoring_window.fields(Calibration.load(file), sampler, given)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))
