"""What prompts require, from a file in the form of GenEval's evaluation_metadata.jsonl: an object on each line.

    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}],
     "prompt": "a photo of two clocks"}

An entry of `include` may have a "color", and a "position": ["left of", index of the entry that it refers to], which
must come earlier. GenEval: Ghosh et al. 2023, arXiv 2310.11513; the fields are those of its prompts/create_prompts.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from genscale.errors import UsageError, quoted
from genscale.safe_json import parse_json, read_text
from genscale.verifiers.detections import MOST, RELATIONS
from genscale.verifiers.requirements import COLOURS, Requirement, Unwanted, Wanted

_FORM = 'write {"include": [{"class": "clock", "count": 2}], "exclude": [], "prompt": "two clocks"}'


def read_metadata(path: Path) -> dict[str, Requirement]:
    """The requirements by prompt. UsageError: the file cannot be read, a line is none, or a prompt has two."""
    what = f"metadata file '{path}'"
    found: dict[str, Requirement] = {}
    for number, line in enumerate(re.split("\r\n|\r|\n", read_text(path, what)), 1):
        if not line.strip():
            continue
        record = parse_json(line, f"{what}, line {number}", _FORM)
        prompt = record.get("prompt") if isinstance(record, dict) else None
        if not isinstance(prompt, str):
            raise UsageError(f"{what}, line {number}: it has no prompt: {_FORM}.")
        made = requirement_of(record, f"{what}, line {number}")
        if found.setdefault(prompt.strip(), made) != made:
            raise UsageError(f"{what}: {quoted(prompt)} has two requirements: drop one.")
    if not found:
        raise UsageError(f"{what} holds nothing: {_FORM}.")
    return found


def requirement_of(record: Any, what: str) -> Requirement:
    """The requirement in one object. what: names it in messages. UsageError: it is none."""
    include, exclude = (record.get(name, []) for name in ("include", "exclude"))
    tag = record.get("tag", "")
    if not isinstance(include, list) or not isinstance(exclude, list) or not isinstance(tag, str):
        raise UsageError(f"{what}: include and exclude are lists, and tag a text: {_FORM}.")
    if not include and not exclude:
        raise UsageError(f"{what}: nothing is required: {_FORM}.")
    wanted = tuple(_wanted(entry, n, what) for n, entry in enumerate(include))
    return Requirement(wanted, tuple(Unwanted(*_noun(entry, what)) for entry in exclude), tag)


def metadata_of(requirement: Requirement, prompt: str) -> dict[str, Any]:
    """The object that says so: the inverse of `requirement_of`."""
    include = []
    for part in requirement.wanted:
        entry: dict[str, Any] = {"class": part.noun, "count": part.count}
        if part.colour is not None:
            entry["color"] = part.colour
        if part.place is not None:
            entry["position"] = list(part.place)
        include.append(entry)
    exclude = [{"class": part.noun, "count": part.count} for part in requirement.unwanted]
    return {
        "tag": requirement.tag,
        "include": include,
        **({"exclude": exclude} if exclude else {}),
        "prompt": prompt,
    }


def _wanted(entry: Any, n: int, what: str) -> Wanted:
    noun, count = _noun(entry, what)
    colour, place = entry.get("color"), entry.get("position")
    if colour is not None and colour not in COLOURS:
        raise UsageError(f"{what}: the colour {quoted(colour)} is none of {', '.join(COLOURS)}.")
    if place is None:
        return Wanted(noun, count, colour)
    if not isinstance(place, list) or len(place) != 2 or place[0] not in RELATIONS:
        raise UsageError(
            f"{what}: a position is one of {', '.join(RELATIONS)} and the index of an earlier entry."
        )
    target = place[1]
    if type(target) is not int or not 0 <= target < n:
        raise UsageError(
            f"{what}: the position of {quoted(noun)} refers to {quoted(target)}: give the index of an earlier entry."
        )
    return Wanted(noun, count, colour, (place[0], target))


def _noun(entry: Any, what: str) -> tuple[str, int]:
    noun, count = (entry.get("class"), entry.get("count")) if isinstance(entry, dict) else (None, None)
    if not isinstance(noun, str) or not noun.strip() or type(count) is not int or not 1 <= count <= MOST:
        raise UsageError(f"{what}: an entry needs a class and a count from 1 to {MOST}: {_FORM}.")
    return noun.strip(), count
