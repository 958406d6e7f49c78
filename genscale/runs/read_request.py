"""Reads the request of a run: from its folder, from one of its images, or from JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.plugins import limits, options
from genscale.runs.option_metadata import options_of
from genscale.runs.request import FILE, Request
from genscale.storage import typed_json
from genscale.storage.former_names import with_present_names


def from_dict(data: Any, source: str) -> Request:
    """A request read from JSON; `source` names it in messages."""
    types = options.field_types(Request)
    checks = [(name, how) for option, how in options_of(Request).items() for name in how.sets or (option,)]
    why = "it has no prompts"
    try:
        given = dict(with_present_names(data))
        if given["prompts"]:
            for name, value in given.items():
                typed_json.check(value, typed_json.json_type(types[name]), f"its {name}")
            made = Request(**{name: options.convert(v, types[name]) for name, v in given.items()})
            for name, how in checks:
                value = getattr(made, name)
                if how.check is not None and value is not None and not how.check[0](value):
                    raise UsageError(f"'{source}' cannot be run: its {name} is {value}, and {how.check[1]}.")
            for name in given:
                fault = limits.fault(getattr(made, name), types[name])
                if fault is not None:
                    raise UsageError(f"'{source}' cannot be run: its {name} must be {fault}.")
            return made
    except UsageError:
        raise
    except KeyError as error:
        why = f"{error} is missing or unknown"
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        why = str(error) or "a value is of the wrong type"
    raise UsageError(f"'{source}' holds no request that this version of genscale can read: {why}.")


def load_folder(folder: Path) -> Request:
    """The request of a run folder."""
    path = folder / FILE
    try:
        there, has = folder.is_dir(), path.is_file()
    except OSError as error:
        raise UsageError(f"'{folder}' cannot be read: {error.strerror}.") from None
    if not there:
        raise UsageError(f"'{folder}' is not a folder: name the folder of an earlier run.")
    if not has:
        raise UsageError(f"'{folder}' holds no run: it has no {FILE}.")
    return from_dict(typed_json.read(path, dict[str, Any]), str(path))


def load_request(file: Path) -> Request:
    """The request in an image or video that genscale wrote. Files are passed on, so it cannot turn remote code on."""
    from genscale.runs.file_metadata import read_metadata  # loads PIL, which options and help do not need

    return replace(from_dict(read_metadata(file)["request"], str(file)), trust_remote_code=False)
