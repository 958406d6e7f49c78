"""Files that are there whole or not at all, also after a kill, a full disk or a power cut."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

_PARTIAL = re.compile(r"\.partial-(\d+)-.+")


def save_file(path: Path, save: Callable[[Path], None], sync_name: bool = True) -> None:
    """Let `save` write a file beside it; it gets its name when it is whole and on the disk.

    sync_name: also wait until its name is on the disk; of several files, `sync_folder` does that for all at once.
    OSError: it cannot be written; what was under its name before is still there.
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        save(partial)
        with partial.open("rb+") as file:
            fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if sync_name:
        sync_folder(path.parent)


def save_bytes(path: Path, data: bytes, sync_name: bool = True) -> None:
    """The same with its content."""

    def save(partial: Path) -> None:
        partial.write_bytes(data)

    save_file(path, save, sync_name)


def stored(path: Path) -> bytes:
    """What a file of a folder holds that anybody may have made. OSError: it cannot be read, or is no regular file.

    A named pipe under the name of a file would be waited for without end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(None, "it is a pipe or a device")
    return path.read_bytes()


def fsync(descriptor: int) -> None:
    """Wait until what was written is on the disk."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    if os.name == "nt":  # has no descriptors of folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes had begun to write; other processes may still be writing theirs."""
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _PARTIAL.fullmatch(path.name)
        if match is not None and has_ended(int(match[1])):
            path.unlink(missing_ok=True)


def has_ended(process: int) -> bool:
    """Whether no process of this number runs on this machine."""
    import psutil

    return not psutil.pid_exists(process)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class AppendedFile:
    """A file that only grows, by whole pieces: one that cannot be written whole is taken back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)

    def append(self, data: bytes) -> None:
        """OSError: it cannot be written; the file ends as before."""
        end = os.fstat(self._file).st_size
        try:
            _write_all(self._file, data)
            fsync(self._file)
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def close(self) -> None:
        os.close(self._file)
