"""Reads JSON and text files that anybody may have written: whatever is wrong with one is one sentence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genscale.errors import UsageError

MAX_BYTES = 256 * 2**20
MAX_DEPTH = 100
_TOO_DEEP = f"is nested more than {MAX_DEPTH} deep"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(UsageError):
    """A text that is not JSON, or none that can be used. reason: what is wrong, without the name of the text."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_json(
    text: str | bytes,
    what: str,
    hint: str = "",
    *,
    finite: bool = False,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value that a JSON text holds.

    what: names the text in the message, such as "boxes file 'b.json'". hint: what to do, after a colon. finite: refuse
    NaN and infinities. pairs: as `object_pairs_hook` of `json.loads`; a UsageError that it raises comes through.

    JsonError: it is not UTF-8 or not JSON, nested more than 100 deep, or has a number of more digits or a character
    that Python cannot hold.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        found = json.loads(text, object_pairs_hook=pairs)
    except UsageError:
        raise
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}: {error.msg}" if error.lineno > 1 else error.msg
        raise _refusal(what, f"is not JSON ({reason})", hint) from None
    except UnicodeDecodeError:
        raise _refusal(what, "is not UTF-8 text", hint) from None
    except RecursionError:
        raise _refusal(what, _TOO_DEEP, hint) from None
    except ValueError:  # Python converts no number of more than 4,300 digits
        raise _refusal(what, "has a number of too many digits", hint) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(found):
        raise _refusal(what, _TOO_DEEP, hint)
    if _SURROGATE.search(text) and not _is_unicode(found):
        raise _refusal(what, "has half a character (a lone surrogate)", hint)
    if finite and not _is_finite(found):
        raise _refusal(what, "has a number that is not finite", hint)
    return found


def read_json(
    path: Path,
    what: str,
    hint: str = "",
    *,
    finite: bool = False,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value that a JSON file holds, as `parse_json`; UsageError also where the file cannot be read."""
    return parse_json(read_bytes(path, what), what, hint, finite=finite, pairs=pairs)


def read_text(path: Path, what: str) -> str:
    """A file of UTF-8 text, without its byte order mark. UsageError: it cannot be read, or is something else."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{what} is not UTF-8 text.") from None


def read_bytes(path: Path, what: str, limit: int = MAX_BYTES) -> bytes:
    """What a file holds. UsageError: it cannot be read, or holds more than `limit` bytes (a device never ends)."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}.") from None
    except ValueError:  # a name with a NUL, or one that cannot be encoded
        raise UsageError(f"{what} cannot be read: no file can have this name.") from None
    if len(data) > limit:
        raise UsageError(f"{what} cannot be read: it holds more than {limit // 2**20} MB.")
    return data


def _refusal(what: str, reason: str, hint: str) -> JsonError:
    return JsonError(f"{what} {reason}{f': {hint}' if hint else ''}.", reason)


def _is_deep(found: Any) -> bool:
    """Whether lists and objects are nested more than `MAX_DEPTH` deep: code that copies them would not return."""
    level = [found]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for value in level for inner in _inside(value)]
    return bool(level)


def _is_unicode(found: Any) -> bool:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_finite(found: Any) -> bool:
    """Whether no number is NaN or infinite: JSON has no word for them, but Python reads them."""
    level = [found]
    while level:
        if any(isinstance(value, float) and not math.isfinite(value) for value in level):
            return False
        level = [inner for value in level for inner in _inside(value)]
    return True


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
