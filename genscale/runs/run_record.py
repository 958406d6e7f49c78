"""run.json: what a finished run says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

from genscale.engine.journal import Whole
from genscale.errors import UsageError
from genscale.storage import typed_json
from genscale.storage.former_names import with_present_names
from genscale.storage.typed_json import Count, FileName

FILE = "run.json"

Scores = dict[str, float]
Missing = dict[str, list[str]]


class _Total(TypedDict):
    total: float


class Winner(_Total, total=False):
    """A best or a base: its candidate and scores."""

    candidate: Whole
    origin: str
    parent: Whole | None
    search: Scores
    select: Scores
    held_out: Scores
    nfe: Count
    seconds: float


class _Indexed(TypedDict):
    index: Count


class PromptRecord(_Indexed, total=False):
    """What it says of one prompt."""

    prompt: str
    best: Winner | None
    base: Winner | None
    finished: Count
    nfe: Count
    files: dict[str, list[FileName]]
    pictures: dict[FileName, Whole]


class _Finished(TypedDict):
    prompt: str
    best: Winner
    base: Winner | None
    nfe: Count
    finished: Annotated[int, bool]  # at least one


class _Ledger(TypedDict):
    evaluations: Count


class RunRecord(TypedDict, total=False):
    """The fields that are read again."""

    prompts: list[PromptRecord]
    best: Winner | None
    base: Winner | None
    seed: int | None
    stopped: str | None
    wall_seconds: Annotated[float, typed_json.not_negative]
    contact_sheets: list[FileName]
    missing: Missing
    verifiers: dict[str, list[str]]
    ledger_of_base: _Ledger


class _Results(TypedDict):
    prompts: list[_Finished]
    wall_seconds: float


def read_record(folder: Path) -> dict[str, Any] | None:
    """What run.json holds; None where there is none: the run is not finished. UsageError: it cannot be read."""
    path = folder / FILE
    try:
        if not path.is_file():
            return None
    except OSError as error:  # such as a name that is too long
        raise UsageError(f"'{path}' cannot be read: {error.strerror}.") from None
    record: dict[str, Any] = typed_json.read(path, RunRecord, with_present_names)
    return record


def holds_results(record: Mapping[str, Any], prompts: int) -> bool:
    """Whether a record has the scores of so many prompts, to be compared with those of other runs."""
    try:
        typed_json.check(record, _Results)
    except ValueError:
        return False
    return len(record["prompts"]) == prompts


def missing_parts(record: Mapping[str, Any]) -> str:
    """In words, what a record or the metadata of a file says that it does not hold; "" where it holds everything."""
    missing: Missing = record.get("missing", {})
    return " and ".join(name for names in missing.values() for name in names)
