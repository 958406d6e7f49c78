"""Prompts from a file: one per line, or a field of JSON lines, JSON, CSV or TSV; text in UTF-8, or UTF-16 or UTF-32
with a byte order mark.

Lines end at \\n, \\r\\n or \\r only. `str.splitlines` would also split at characters that prompts may contain (U+2028).
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.plugins.limits import is_text, shown
from genscale.safe_json import parse_json, read_bytes

FIELDS = ("prompt", "Prompt", "prompts", "Prompts", "caption", "text")
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file in their order; refused when it cannot be read or holds none."""
    text = read_text_file(path)
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _tsv}
    found = readers.get(path.suffix.lower(), _lines)(text, path)
    prompts = [p.strip() for p in found if p.strip()]
    if not prompts:
        raise UsageError(f"prompt file '{path}' holds no prompt: write one per line.")
    odd = next((p for p in prompts if not is_text(p)), None)
    if odd is not None:
        raise UsageError(f"prompt file '{path}': {shown(odd)} holds a NUL, and is no text.")
    return prompts


def read_text_file(path: Path) -> str:
    """The text of a prompt file. UsageError: it cannot be read, or is none."""
    try:
        return _decoded(read_bytes(path, f"prompt file '{path}'"))
    except UnicodeDecodeError:
        raise UsageError(
            f"prompt file '{path}' is not UTF-8 text, nor UTF-16 with a byte order mark: save it as UTF-8."
        ) from None


def _decoded(data: bytes) -> str:
    """UTF-8, unless the data begin with the byte order mark of UTF-16 or UTF-32."""
    for mark, encoding in MARKS:  # the mark of UTF-32 begins with that of UTF-16
        if data.startswith(mark):
            return data.decode(encoding)
    return data.decode("utf-8-sig")


def text_lines(text: str) -> list[str]:
    """The lines of a text, without what ends them."""
    return re.split("\r\n|\r|\n", text)


def _lines(text: str, path: Path) -> Iterable[str]:
    return (line for line in text_lines(text) if not line.lstrip().startswith("#"))


def _json_lines(text: str, path: Path) -> Iterable[str]:
    for number, line in enumerate(text_lines(text), 1):
        if line.strip():
            yield _prompt(_parsed(line, path, number), path, number)


def _json(text: str, path: Path) -> Iterable[str]:
    if not text.strip():
        return
    data = _parsed(text, path, 1)
    if isinstance(data, dict) and isinstance(data.get("prompts"), list):
        data = data["prompts"]
    for number, item in enumerate(data if isinstance(data, list) else [data], 1):
        yield _prompt(item, path, number)


def _csv(text: str, path: Path, delimiter: str = ",") -> Iterable[str]:
    number = 1
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter), 2):
            yield _prompt(row, path, number)
    except csv.Error as error:
        raise UsageError(f"prompt file '{path}', after entry {number}: {error}.") from None


def _tsv(text: str, path: Path) -> Iterable[str]:
    return _csv(text, path, "\t")


def _parsed(text: str, path: Path, number: int) -> Any:
    return parse_json(text, f"prompt file '{path}', entry {number}:")


def _prompt(item: Any, path: Path, number: int) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict):
        for field in FIELDS:
            if isinstance(item.get(field), str):
                return str(item[field])
        raise UsageError(
            f"prompt file '{path}', entry {number}: no field 'prompt' among {', '.join(map(str, item))}."
        )
    raise UsageError(f"prompt file '{path}', entry {number}: {str(item)[:40]!r} is not a prompt.")
