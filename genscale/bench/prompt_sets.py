"""The prompts of a benchmark from the user's own copy of its files, with what the files say of each.

geneval         evaluation_metadata.jsonl: an object a line, with "tag" and "prompt" (github.com/djghosh13/geneval)
t2i-compbench   color_val.txt and the like: a prompt a line, before a tab (github.com/Karine-Huang/T2I-CompBench)
dpg             the folder dpg_bench/prompts, a text file for each prompt, whose name is its id; or dpg_bench.csv with
                "item_id" and "text" (github.com/TencentQQGYLab/ELLA)
drawbench       a table with "Prompts" and "Category" (Saharia et al. 2022, arXiv 2205.11487)
partiprompts    PartiPrompts.tsv with "Prompt", "Category" and "Challenge" (github.com/google-research/parti)
vbench          VBench_full_info.json, a list of objects with "prompt_en" and "dimension"; or text files of a prompt a
                line, named after a dimension (github.com/Vchitect/VBench)

Of text files there may be a folder: each file is a category, its name without "_val" and "_train".
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genscale.errors import UsageError, quoted
from genscale.plugins.limits import is_text
from genscale.runs.prompt_files import read_text_file, text_lines
from genscale.safe_json import parse_json

FLICKER, FLICKER_VIDEOS = "temporal_flickering", 25
"""VBench drops videos that move before it scores this dimension, so that more are needed. Its prompts/README.md (commit
191c721) asks for 5 of all; 25 is from memory of later versions, and `--samples` gives another number."""


@dataclass(frozen=True)
class BenchPrompt:
    """A prompt of a benchmark.

    index: its place among all. place: among those of its file. id: its name, where the benchmark gives one.
    categories: those it counts in. folder: of the file that it is from, where a folder was read. record: what the
    benchmark's file says of it, one line of JSON. samples: how many the benchmark wants of it, where not as many as of
    the others.
    """

    prompt: str
    index: int = 0
    place: int = 0
    id: str = ""
    categories: tuple[str, ...] = ()
    folder: str = ""
    record: str = ""
    samples: int | None = None


def read_set(name: str, path: Path) -> list[BenchPrompt]:
    """The prompts of a benchmark in the order of its files. UsageError: they cannot be read, or there is none."""
    path = path.expanduser()
    found = [p for p in _READERS[name](path) if p.prompt]
    if not found:
        raise UsageError(f"'{path}' holds no prompt of {name}.")
    odd = next((p.prompt for p in found if not is_text(p.prompt)), None)
    if odd is not None:
        raise UsageError(f"'{path}': {quoted(odd)} holds a NUL, and is no text.")
    return [replace(p, index=n) for n, p in enumerate(found)]


def _geneval(path: Path) -> Iterator[BenchPrompt]:
    for place, (line, record) in enumerate(_objects(path)):
        prompt, tag = record.get("prompt"), record.get("tag")
        if not isinstance(prompt, str) or not isinstance(tag, str):
            raise UsageError(
                f"'{path}': {quoted(line)} has no prompt or no tag: give GenEval's evaluation_metadata.jsonl."
            )
        yield BenchPrompt(prompt.strip(), place=place, categories=(tag,), record=line)


def _compbench(path: Path) -> Iterator[BenchPrompt]:
    for file, folder in _text_files(path):
        category = _category(file)
        lines = [line.split("\t")[0].strip() for line in text_lines(read_text_file(file))]
        for place, prompt in enumerate(filter(None, lines)):
            inner = category if folder else ""
            yield BenchPrompt(
                prompt, place=place, categories=(category,), folder=inner, record=_line({"prompt": prompt})
            )


def _dpg(path: Path) -> Iterator[BenchPrompt]:
    if path.is_dir():
        for place, (file, _) in enumerate(_text_files(path)):
            prompt = " ".join(read_text_file(file).split())
            yield BenchPrompt(
                prompt, place=place, id=file.stem, record=_line({"id": file.stem, "prompt": prompt})
            )
        return
    items: dict[str, tuple[str, list[str]]] = {}
    for row in _rows(path):
        key, prompt = _field(row, path, "item_id"), " ".join(_field(row, path, "text").split())
        if not key.strip() or not prompt:
            continue
        known = items.setdefault(key.strip(), (prompt, []))
        category = row.get("category_broad") or ""
        if category.strip() and category.strip() not in known[1]:
            known[1].append(category.strip())
    for place, (key, (prompt, categories)) in enumerate(items.items()):
        record = _line({"id": key, "prompt": prompt})
        yield BenchPrompt(prompt, place=place, id=key, categories=tuple(categories), record=record)


def _drawbench(path: Path) -> Iterator[BenchPrompt]:
    for place, row in enumerate(_rows(path)):
        prompt, category = (_field(row, path, name).strip() for name in ("Prompts", "Category"))
        yield BenchPrompt(
            prompt, place=place, categories=_named(category), record=_line({"prompt": prompt, **row})
        )


def _parti(path: Path) -> Iterator[BenchPrompt]:
    for place, row in enumerate(_rows(path)):
        prompt, category, challenge = (
            _field(row, path, name).strip() for name in ("Prompt", "Category", "Challenge")
        )
        both = (*_named(category), *(f"challenge: {name}" for name in _named(challenge)))
        yield BenchPrompt(prompt, place=place, categories=both, record=_line({"prompt": prompt, **row}))


def _vbench(path: Path) -> Iterator[BenchPrompt]:
    known: dict[str, list[str]] = {}
    if path.suffix.lower() == ".json":
        for prompt, dimensions in _vbench_info(path):
            known.setdefault(prompt, []).extend(d for d in dimensions if d not in known.get(prompt, ()))
    else:
        for file, _ in _text_files(path):
            for prompt in filter(None, (line.strip() for line in text_lines(read_text_file(file)))):
                if _category(file) not in known.setdefault(prompt, []):
                    known[prompt].append(_category(file))
    for place, (prompt, dimensions) in enumerate(known.items()):
        record = _line({"prompt_en": prompt, "dimension": dimensions})
        most = FLICKER_VIDEOS if FLICKER in dimensions else None
        yield BenchPrompt(prompt, place=place, categories=tuple(dimensions), record=record, samples=most)


def _vbench_info(path: Path) -> Iterator[tuple[str, list[str]]]:
    data = parse_json(read_text_file(path), f"'{path}'")
    for entry in data if isinstance(data, list) else [data]:
        prompt, dimensions = (
            (entry.get("prompt_en"), entry.get("dimension")) if isinstance(entry, dict) else (None, None)
        )
        if (
            not isinstance(prompt, str)
            or not isinstance(dimensions, list)
            or not all(isinstance(d, str) for d in dimensions)
        ):
            raise UsageError(
                f"'{path}': an entry has no prompt_en or no dimensions: give VBench_full_info.json."
            )
        yield prompt.strip(), dimensions


_READERS: dict[str, Callable[[Path], Iterator[BenchPrompt]]] = {
    "geneval": _geneval,
    "t2i-compbench": _compbench,
    "dpg": _dpg,
    "drawbench": _drawbench,
    "partiprompts": _parti,
    "vbench": _vbench,
}


# ---------------------------------------------------------------- files


def _text_files(path: Path) -> list[tuple[Path, bool]]:
    """The text files of a folder by name, numbers by their size; or the file itself. And whether it was a folder."""
    if not path.is_dir():
        return [(path, False)]
    files = [file for file in path.iterdir() if file.suffix.lower() == ".txt"]
    return [(file, True) for file in sorted(files, key=_by_number)]


def _by_number(file: Path) -> tuple[int, int, str]:
    stem = file.stem
    return (0, int(stem), stem) if stem.isdecimal() and len(stem) < 19 else (1, 0, stem)


def _category(file: Path) -> str:
    return file.stem.removesuffix("_val").removesuffix("_train")


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a file of JSON objects, as they are and as read."""
    for number, line in enumerate(text_lines(read_text_file(path)), 1):
        if not line.strip():
            continue
        record = parse_json(line, f"'{path}', line {number}")
        if not isinstance(record, dict):
            raise UsageError(f"'{path}', line {number}: {quoted(line)} is no JSON object.")
        yield line.strip(), record


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table by its columns: separated by tabs in .tsv, else by commas."""
    text = read_text_file(path)
    tabs = path.suffix.lower() == ".tsv"
    try:
        for row in csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ","):
            yield {str(name).strip(): value for name, value in row.items() if name and isinstance(value, str)}
    except csv.Error as error:
        raise UsageError(f"'{path}' is no table: {error}.") from None


def _field(row: Mapping[str, str], path: Path, name: str) -> str:
    found = next((value for key, value in row.items() if key.lower() == name.lower()), None)
    if found is None:
        raise UsageError(f"'{path}' has no column {name}: it has {', '.join(row) or 'none'}.")
    return found


def _named(category: str) -> tuple[str, ...]:
    return (category,) if category else ()


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(dict(record), ensure_ascii=False)
