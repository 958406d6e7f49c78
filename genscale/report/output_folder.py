"""A folder that results are written to: checked to be writable first, and each file appears only when it is whole."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.storage.durable_files import remove_partial_files, save_file
from genscale.storage.folder_lock import FolderLock


class OutputFolder:
    """`claim` it before anything is computed, then `write` each result, and `release` it."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._new: list[Path] = []  # folders made here, outermost first
        self._found: set[str] = set()
        self._lock = FolderLock(self.path)

    def prepare(self, new: bool = False) -> None:
        """Make the folder and try to write to it. UsageError: it cannot be written to.

        new: FileExistsError where there is one already.
        """
        missing: list[Path] = []
        try:
            missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
            self.path.mkdir(parents=True, exist_ok=not new)
            self._new = missing[::-1]
            probe = self.path / f".probe-{os.getpid()}-{threading.get_ident()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            if new and isinstance(error, FileExistsError):
                raise
            self._new = missing[::-1]
            self.remove_new()
            raise UsageError(
                f"cannot write to '{self.path}' ({error.strerror}): choose another folder with --out."
            ) from None

    def claim(self, new: bool = False) -> None:
        """The same, and keep other writers out until `release`. UsageError: another run is writing into it."""
        self.prepare(new)
        try:
            self._lock.acquire()
            remove_partial_files(self.path)
            self._found = set(os.listdir(self.path))
        except OSError as error:
            self.release()
            self.remove_new()
            raise UsageError(f"cannot write to '{self.path}' ({error.strerror}).") from None

    @property
    def is_claimed(self) -> bool:
        return self._lock.taken

    def release(self) -> None:
        """Let others write. Nothing happens to a folder that is not claimed."""
        self._lock.release()

    def write(self, name: str, save: Callable[[Path], None]) -> Path:
        """Let `save` write a file; it appears under its name only when it is whole."""
        path = self.path / name
        try:
            save_file(path, save)
        except OSError as error:
            raise UsageError(f"cannot write '{path}' ({error.strerror or error}).") from error
        return path

    def write_json(self, name: str, data: Any) -> Path:
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"

        def save(path: Path) -> None:
            path.write_text(text, encoding="utf-8")

        return self.write(name, save)

    def remove_new(self) -> None:
        """Remove the folders that `claim` made, as far as they are empty."""
        for path in reversed(self._new):
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:  # something was put there in the meantime
                return
        self._new = []
