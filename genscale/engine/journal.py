"""The lines of an archive: one JSON record each, with a checksum, written to the disk before the next begins.

The last line may be incomplete after a kill: it is ignored, and cut off before more is written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict
from zlib import crc32

from genscale.engine.headings import STATE
from genscale.errors import UsageError
from genscale.storage import typed_json
from genscale.storage.durable_files import AppendedFile, stored
from genscale.storage.former_names import with_present_names
from genscale.storage.typed_json import Count, is_file_name

_SUM = re.compile(rb', "sum": "([0-9a-f]{8})"\}$')
_FOLDER = "latents/"

Whole = Annotated[int, lambda number: abs(number) < 2**63]
Word = Annotated[int, lambda word: 0 <= word < 2**32]
TensorFile = Annotated[str, lambda name: name.startswith(_FOLDER) and is_file_name(name[len(_FOLDER) :])]


def _is_member(value: list[Any]) -> bool:
    """Whether it is [name of a verifier, weight]."""
    return len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)


class Heading(TypedDict):
    """The first line: what was asked for."""

    kind: Literal["run"]


class _Roles(Heading, total=False):
    prompts: list[str]
    verifiers: dict[str, list[Annotated[list[Any], _is_member]]]
    identity: dict[str, str]


class CandidateRecord(TypedDict):
    """How a candidate came about."""

    candidate: Whole
    origin: str
    parent: Whole | None
    key: list[Word]
    start: Count
    details: dict[str, Any]


class _Recipe(CandidateRecord):
    kind: str
    prompt: Count
    step: Count
    seconds: Annotated[float, typed_json.not_negative]


class _Record(_Recipe, total=False):
    measured: dict[str, float]


class _Tensors(_Record):
    file: TensorFile


class _TensorRecord(_Tensors, total=False):
    digest: str  # of the file; early versions wrote none
    branch: str


class _Solve(_TensorRecord):
    memory: dict[str, Any] | None


class _Gradient(_TensorRecord):
    asked: str
    nfe: Count


class _Failed(_Record):
    final: bool
    where: str
    what: str
    nfe: Count


class _State(TypedDict):
    identity: dict[str, str]


class _Guarded(_Record, total=False):
    guard: dict[str, float]
    vectors: dict[str, str]


class _Score(_Guarded):
    final: bool
    scores: dict[str, float]
    total: float | None
    select: dict[str, float]
    held_out: dict[str, float]
    nfe: Count


_KINDS: dict[Any, Any] = {
    "solve": _Solve, "latents": _TensorRecord, "predict": _TensorRecord, "gradient": _Gradient, "score": _Score,
    "failed": _Failed, STATE: _State,
}  # fmt: skip


class Journal:
    """An archive that is written to. OSError: it cannot be; what is in it then is whole."""

    def __init__(self, path: Path) -> None:
        _cut_torn_line(path)
        self._file = AppendedFile(path)

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._file.append(b"".join(map(line_of, records)))

    def close(self) -> None:
        self._file.close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Failures of the disk as UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write to '{folder}' ({error.strerror or error}): make room there and repeat the call, which goes "
            "on with what is there, or choose another output folder."
        ) from None


def line_of(record: Mapping[str, Any]) -> bytes:
    """The line of a record; its last field is the CRC-32 of the others."""
    text = json.dumps(record).encode()
    return text[:-1] + b', "sum": "%08x"}\n' % crc32(text)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, the heading first, without an incomplete last line; empty where there is no file.

    UsageError: a line is damaged, or it cannot be read.
    """
    try:
        data = stored(path) if path.exists() else b""
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}.") from None
    found = []
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
        try:
            found.append(_record(line, first=number == 1))
        except ValueError as error:
            raise UsageError(
                f"line {number} of '{path}' was damaged or changed by hand ({error}): restore it, or choose another "
                "folder."
            ) from None
    return found


def _record(line: bytes, first: bool) -> dict[str, Any]:
    record: dict[str, Any] = typed_json.parse(line)
    typed_json.check(record, dict)
    match = _SUM.search(line)  # lines of early versions have none
    if match is not None:
        if crc32(line[: match.start()] + b"}") != int(match[1], 16):
            raise ValueError("its checksum is that of another line")
        del record["sum"]
    with_present_names(record)
    kind = record.get("kind")
    if not first and (not isinstance(kind, str) or kind not in _KINDS):
        raise ValueError(f"it has no 'kind' of {', '.join(_KINDS)}")
    typed_json.check(record, _Roles if first else _KINDS[kind])
    return record


def _cut_torn_line(path: Path) -> None:
    data = stored(path) if path.exists() else b""
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
