"""Prompts from a file: one per line, or a field of JSON lines, JSON, CSV or TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.plugins.limits import is_text, shown
from genscale.safe_json import parse_json, read_text

FIELDS = ("prompt", "Prompt", "prompts", "Prompts", "caption", "text")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file in their order; refused when it cannot be read or holds none."""
    text = read_text(path, f"prompt file '{path}'")
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _tsv}
    found = readers.get(path.suffix.lower(), _lines)(text, path)
    prompts = [p.strip() for p in found if p.strip()]
    if not prompts:
        raise UsageError(f"prompt file '{path}' holds no prompt: write one per line.")
    odd = next((p for p in prompts if not is_text(p)), None)
    if odd is not None:
        raise UsageError(f"prompt file '{path}': {shown(odd)} holds a NUL, and is no text.")
    return prompts


def _lines(text: str, path: Path) -> Iterable[str]:
    return (line for line in text.splitlines() if not line.lstrip().startswith("#"))


def _json_lines(text: str, path: Path) -> Iterable[str]:
    for number, line in enumerate(text.splitlines(), 1):
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
        for number, row in enumerate(csv.DictReader(io.StringIO(text), delimiter=delimiter), 2):
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
