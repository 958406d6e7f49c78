"""Arms as they are written on the command line: "guidance=7,steps=8" or "prompt={}, a photograph".

An empty text is the call as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from genscale.errors import UsageError
from genscale.safe_json import JsonError, parse_json

_PLAIN = (str, int, float, bool)


def arms_of(texts: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """What each arm changes. UsageError: one cannot be read."""
    return tuple(pairs_of(text, "--arm", "guidance=7,steps=8") for text in texts)


def text_of(arm: Mapping[str, Any]) -> str | None:
    """The text of an arm; None where it holds what no text can."""
    if any(not isinstance(v, _PLAIN) or (isinstance(v, str) and not _is_safe(k, v)) for k, v in arm.items()):
        return None
    return ",".join(f"{name}={value}" for name, value in arm.items())


def pairs_of(text: str, option: str, example: str) -> dict[str, Any]:
    """The values by name of a text such as "guidance=7,steps=8". UsageError: it cannot be read, and how it is written.

    option, example: for that message.
    """
    found: dict[str, Any] = {}
    for part in re.split(r",\s*(?=\w+\s*=)", text.strip()) if text.strip() else ():
        name, equals, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier() or name in found:
            raise UsageError(
                f"{option} '{text}' cannot be read: give each NAME=VALUE once, such as {example}."
            )
        found[name] = _value(name, value.strip())
    return found


def _value(name: str, text: str) -> Any:
    if name in ("prompt", "scheduler", "model"):
        return text
    try:
        found = parse_json(text, "the value")
    except JsonError:
        return text
    return found if isinstance(found, _PLAIN) else text


def _is_safe(name: str, value: str) -> bool:
    return (
        re.search(r",\s*\w+\s*=", value) is None and _value(name, value) == value and value == value.strip()
    )
