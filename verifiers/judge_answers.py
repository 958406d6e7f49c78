"""Numbers in the words of a language model: JSON where it wrote JSON, else the names with numbers behind them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

REASON = "reason"
_NUMBER = r"-?\d+(?:\.\d+)?"
_OF = re.compile(rf"\s*({_NUMBER})\s*(?:(?:/|out of|of)\s*{_NUMBER})?\s*")
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
MOST = 100_000  # characters that are looked at, from the end


@dataclass(frozen=True)
class Parts:
    """Numbers by name, in the order of the names that were asked for, and the reason that came with them."""

    numbers: dict[str, float]
    reason: str = ""


def read_parts(text: str, names: Sequence[str], least: float, most: float) -> Parts:
    """The numbers of these names. The last JSON object that has all of them counts, whatever stands around it.

    ValueError: one is missing, no finite number, or outside [least, most]: nothing is guessed.
    """
    words = _THOUGHTS.sub("", text[-MOST:])
    candidates = [found for found in _objects(words) if all(_plain(n) in found for n in names)]
    if candidates:
        numbers = {n: _number(candidates[-1][_plain(n)]) for n in names}
        reason = candidates[-1].get(REASON, "")
    else:
        numbers, reason = {n: _number_behind(words, n) for n in names}, ""
    for name, number in numbers.items():
        if not least <= number <= most:
            raise ValueError(f"{name} is {number:g}, outside {least:g} to {most:g}")
    return Parts(numbers, str(reason) if isinstance(reason, str) else "")


def json_values(text: str) -> Iterator[Any]:
    """The JSON objects and lists in a text, outermost ones only, whatever stands around them."""
    decoder, words = json.JSONDecoder(), _THOUGHTS.sub("", text[-MOST:])
    begin = re.compile(r"[{\[]")
    match = begin.search(words)
    while match is not None:
        try:
            found, end = decoder.raw_decode(words, match.start())
        except (ValueError, RecursionError):
            end = match.start() + 1
        else:
            yield found
        match = begin.search(words, end)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text and those inside them, with plain keys."""
    for found in json_values(text):
        for inner in _inside(found):
            yield {_plain(str(k)): v for k, v in inner.items()}


def _inside(found: Any) -> Iterator[dict[str, Any]]:
    """An object, and those that are its values: some models wrap their answer in another object."""
    if isinstance(found, dict):
        yield found
        yield from (value for value in found.values() if isinstance(value, dict))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _number(value: Any) -> float:
    """ValueError: it is no finite number."""
    if isinstance(value, dict):  # {"score": 7, "reason": ...}
        value = next((value[k] for k in ("score", "value", "rating") if k in value), None)
    if isinstance(value, str):
        match = _OF.fullmatch(value)
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("it is no number")
    return float(value)


def _number_behind(text: str, name: str) -> float:
    """The number behind the last mention of a name, such as "**Alignment Score** (1-5): 3.5". ValueError: none."""
    spelled = r"[\s_-]*".join(map(re.escape, re.split(r"[\s_-]+", name)))
    found = re.findall(
        rf"(?<![a-z]){spelled}(?:\s+score)?[\s*\"'`]*(?:\([^)\n]*\))?[\s*\"'`]*[:=]\s*[\s*\"'`]*({_NUMBER})",
        text,
        re.IGNORECASE,
    )
    if not found:
        raise ValueError(f"{name} is missing")
    return float(found[-1])
