"""Writes an archive in a thread of its own, so that the search does not wait for disk and accelerator.

Records come to the disk in the order in which they were added. What could not be written is raised by the next call.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genscale.engine.finite_numbers import all_finite
from genscale.engine.journal import Journal, writing
from genscale.engine.tensor_files import save_tensors
from genscale.numerics.transfers import HostCopy
from genscale.storage.durable_files import sync_folder


class Rows:
    """Tensors of several candidates [n, ...], on their way to the host."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        # On the CPU a copy, too: a pipeline may write into latents that it was handed.
        self._copies = {k: HostCopy(v.clone() if v.device.type == "cpu" else v) for k, v in tensors.items()}

    def row(self, i: int | None) -> dict[str, Tensor]:
        """Those of one candidate [1, ...]; None: all."""
        rows = slice(None) if i is None else slice(i, i + 1)
        return {k: copy.get()[rows].contiguous() for k, copy in self._copies.items()}


@dataclass(frozen=True)
class Pending:
    """A record that is to be written.

    head, tail: its fields before and after the name and digest of its file. rows: where its tensors are, if it has any.
    row: of these; None: all.
    """

    head: Mapping[str, Any]
    tail: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    rows: Rows | None = None
    row: int | None = None

    def tensors(self) -> dict[str, Tensor]:
        assert self.rows is not None
        found = self.rows.row(self.row)
        if GIVEN in found:  # only where the loop has edited what it was given
            given = found.pop(GIVEN)
            if torch.equal(found[SEEN], given.to(found[SEEN].dtype)):
                del found[SEEN]
        return found


GIVEN, SEEN = "given", "x"
"""Latents that a model call was given, and those that it saw: equal ones are not written."""


class ArchiveWriter:
    """Writes into one folder, whose journal it owns."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder, self._journal = folder, journal
        self._waiting: list[Pending] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = self._ended = False
        self._error: BaseException | None = None

    def add(self, records: Sequence[Pending]) -> None:
        """UsageError: what was added before cannot be written."""
        with self._changed:
            self._raise()
            self._waiting += records
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="genscale-archive", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until everything is on the disk. UsageError: it cannot be written."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._busy))
            self._raise()

    def close(self) -> None:
        """Write what waits, and end. UsageError: it cannot be written, and that was not raised yet."""
        try:
            self.settle()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()
            self._journal.close()

    def _raise(self) -> None:
        """Raise the thread's error, once; nothing is written after it."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        failed = False
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._ended)
                records, self._waiting, self._busy = self._waiting, [], True
                if not records:
                    self._busy = False
                    return
            if failed:
                continue
            try:
                self._write(records)
            except BaseException as error:
                failed, self._error = True, error

    def _write(self, records: Sequence[Pending]) -> None:
        """All that waited, with one wait for the names of its files and one for its lines."""
        made: list[dict[str, Any]] = []
        try:
            for record in records:
                if (line := self._saved(record)) is not None:
                    made.append(line)
        finally:  # what came before a failure is kept
            if made:
                with writing(self.folder):
                    if any("file" in line for line in made):
                        sync_folder(self.folder / "latents")  # their names are on the disk before their lines
                    self._journal.write(made)

    def _saved(self, record: Pending) -> dict[str, Any] | None:
        """The record, its tensors in a file. None: they are not finite, and no answer."""
        if record.rows is None:
            return {**record.head, **record.tail}
        tensors = record.tensors()
        if not all_finite(tensors):
            return None
        file = f"latents/{record.name}.safetensors"
        with writing(self.folder):
            digest = save_tensors(self.folder / file, tensors)
        return {**record.head, "file": file, "digest": digest, **record.tail}
