"""Prompts from a file: one per line, or a field of JSON lines, JSON, CSV or TSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genscale.errors import UsageError

FIELDS = ("prompt", "Prompt", "prompts", "Prompts", "caption", "text")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file in their order; refused when it cannot be read or holds none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"prompt file '{path}' cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"prompt file '{path}' is not UTF-8 text.") from None
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _tsv}
    found = readers.get(path.suffix.lower(), _lines)(text, path)
    prompts = [p.strip() for p in found if p.strip()]
    if not prompts:
        raise UsageError(f"prompt file '{path}' holds no prompt: write one per line.")
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
    for number, row in enumerate(csv.DictReader(io.StringIO(text), delimiter=delimiter), 2):
        yield _prompt(row, path, number)


def _tsv(text: str, path: Path) -> Iterable[str]:
    return _csv(text, path, "\t")


def _parsed(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"prompt file '{path}', entry {number}: not JSON ({error.msg}).") from None


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
