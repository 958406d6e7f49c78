"""Questions about prompts from a file, JSON or CSV.

    {"a red ball on a table": ["Is there a ball?", {"question": "Is it red?", "parents": [1]}]}

    prompt,question,parents
    a red ball on a table,Is there a ball?,
    a red ball on a table,Is it red?,1

Parents are numbers of the prompt's other questions, counted from 1; 0 is none, as in the files of DSG. In CSV several
are separated by spaces or semicolons.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from genscale.errors import UsageError, quoted
from genscale.safe_json import read_json, read_text
from genscale.verifiers.questions import YesNo, check_questions

_FORM = 'write {"PROMPT": ["QUESTION", {"question": "QUESTION", "parents": [1]}]}'
COLUMNS = ("prompt", "question", "parents")


def read_questions(path: Path) -> dict[str, tuple[YesNo, ...]]:
    """The questions of every prompt in the file. UsageError: it cannot be read, or is not in this form."""
    what = f"file of questions '{path}'"
    found = _of_csv(path, what) if path.suffix.lower() == ".csv" else _of_json(path, what)
    if not found:
        raise UsageError(f"{what} has no questions: {_FORM}.")
    return {p: check_questions(qs, f"{quoted(p)} in {what}") for p, qs in found.items()}


def question_of(item: Any, what: str) -> YesNo:
    """One question of a JSON list. UsageError: it is none."""
    if isinstance(item, str):
        return YesNo(item)
    if not isinstance(item, dict) or not isinstance(item.get("question"), str):
        raise UsageError(f"{what}: {quoted(item)} is no question: {_FORM}.")
    parents = item.get("parents") or []
    if not isinstance(parents, list) or not all(
        isinstance(p, int) and not isinstance(p, bool) for p in parents
    ):
        raise UsageError(f"{what}: the parents of {quoted(item['question'])} are no list of numbers.")
    return YesNo(item["question"], _parents(parents))


def _parents(numbers: list[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(n - 1 for n in numbers if n != 0))


def _of_json(path: Path, what: str) -> dict[str, list[YesNo]]:
    data = read_json(path, what, _FORM)
    if not isinstance(data, dict) or not all(isinstance(v, list) for v in data.values()):
        raise UsageError(f"{what} holds no prompts with lists of questions: {_FORM}.")
    return {prompt: [question_of(item, what) for item in items] for prompt, items in data.items()}


def _of_csv(path: Path, what: str) -> dict[str, list[YesNo]]:
    rows = csv.DictReader(io.StringIO(read_text(path, what), newline=""))
    names = [n.strip().lower() for n in rows.fieldnames or []]
    if not {"prompt", "question"} <= set(names):
        raise UsageError(f"{what} has no columns prompt and question, but {quoted(', '.join(names))}.")
    rows.fieldnames = names
    found: dict[str, list[YesNo]] = defaultdict(list)
    for row in rows:
        told = (row.get("parents") or "").strip()
        numbers = re.split(r"[\s;]+", told) if told else []
        if (
            not all(re.fullmatch(r"\d{1,6}", n) for n in numbers)
            or row["prompt"] is None
            or not row["question"]
        ):
            raise UsageError(
                f"{what}, line {rows.line_num}: it needs a prompt, a question, and numbers as parents."
            )
        found[row["prompt"]].append(YesNo(row["question"], _parents(list(map(int, numbers)))))
    return dict(found)
