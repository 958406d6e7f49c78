"""Boxes from a JSON file: one list for all prompts, or a list for each.

    [{"text": "a red star", "box": [0.0, 0.0, 0.5, 0.5]}, {"text": "a blue ring", "mask": "ring.png"}]

    {"a red star and a blue ring": [{"text": "a red star", "box": [0, 0, 0.5, 0.5]}], "1": []}

A key is a prompt's text or its index in the run, from 0 as in run.json; a text takes precedence. Edges of a box are
left, upper, right and lower, as fractions of width and height; a mask is a grey image, beside the file or by its full
path.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genscale.errors import UsageError, did_you_mean, quoted
from genscale.safe_json import read_json
from genscale.verifiers.regions import Box

_FORM = 'write [{"text": "a red star", "box": [x0, y0, x1, y1]}], or {"PROMPT": [...]}'


def read_boxes(path: Path, prompts: Sequence[str] | None = None) -> list[Box] | dict[str, list[Box]]:
    """One list, or lists by the prompts' texts.

    prompts: those of the run, to which index keys refer; other keys are refused.
    """
    data = read_json(path, f"boxes file '{path}'", _FORM, pairs=lambda pairs: _once(pairs, path))
    if isinstance(data, list):
        return _boxes(data, path, "")
    if not isinstance(data, dict):
        raise UsageError(f"boxes file '{path}' holds neither a list nor prompts with lists: {_FORM}.")
    found: dict[str, list[Box]] = {}
    named: dict[str, str] = {}
    for key, items in data.items():
        prompt = _prompt(key, path, prompts)
        if prompt in found:
            raise UsageError(
                f"boxes file '{path}' has boxes for {quoted(prompt)} twice, as {quoted(named[prompt])} and "
                f"{quoted(key)}: join them."
            )
        found[prompt], named[prompt] = _boxes(items, path, f" of {quoted(key)}"), key
    return found


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """Refuse equal keys, of which JSON would silently keep the last."""
    for i, (key, _) in enumerate(pairs):
        if any(key == earlier for earlier, _ in pairs[:i]):
            raise UsageError(f"boxes file '{path}' has {quoted(key)} twice in one place: join or drop one.")
    return dict(pairs)


def _prompt(key: str, path: Path, prompts: Sequence[str] | None) -> str:
    if prompts is None:
        return key
    if key in prompts:
        return key
    if key.isdecimal() and len(key) < 10:
        if int(key) < len(prompts):
            return prompts[int(key)]
        raise UsageError(f"boxes file '{path}': there is no prompt {key}, only 0 to {len(prompts) - 1}.")
    hint = did_you_mean(key, prompts)
    raise UsageError(f"boxes file '{path}': {quoted(key)} is none of the prompts{hint}.")


def _boxes(items: Any, path: Path, whose: str) -> list[Box]:
    if not isinstance(items, list):
        raise UsageError(f"boxes file '{path}': the boxes{whose} must be a list: {_FORM}.")
    return [_box(item, path, f"box {n}{whose}") for n, item in enumerate(items, 1)]


def _box(item: Any, path: Path, which: str) -> Box:
    if not isinstance(item, dict) or "text" not in item or set(item) - {"text", "box", "mask"}:
        raise UsageError(f"boxes file '{path}', {which}: it needs a text and a box or a mask: {_FORM}.")
    mask = item.get("mask")
    if mask is not None and not isinstance(mask, str):
        raise UsageError(f"boxes file '{path}', {which}: a mask is the name of an image file.")
    box = item.get("box")
    if box is not None and not isinstance(box, list):
        raise UsageError(f"boxes file '{path}', {which}: a box is a list of four numbers.")
    try:
        return Box(
            item["text"], None if box is None else tuple(box), None if mask is None else path.parent / mask
        )  # type: ignore[arg-type]
    except UsageError as error:
        raise UsageError(f"boxes file '{path}', {which}: {error}") from None
