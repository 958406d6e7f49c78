"""One writer for each folder: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from genscale.errors import UsageError

FILE = ".lock"


@dataclass
class _Held:
    thread: int
    count: int
    descriptor: int


_held: dict[str, _Held] = {}
_guard = threading.Lock()


class FolderLock:
    """Of an existing folder. The thread that has it may take it again, and gives it back as often.

    The lock is a file in the folder, which is removed with it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name = ""
        self._taken = 0  # times, by this object

    def acquire(self) -> None:
        """UsageError: another process or thread writes into the folder. OSError: it cannot be written to."""
        with _guard:
            self._name = os.path.realpath(self.folder)
            held = _held.get(self._name)
            if held is None:
                _held[self._name] = _Held(threading.get_ident(), 1, self._locked_file())
            elif held.thread == threading.get_ident():
                held.count += 1
            else:
                raise self._refusal()
            self._taken += 1

    def release(self) -> None:
        """Give it back; nothing happens where it was not taken."""
        with _guard:
            if not self._taken:
                return
            self._taken -= 1
            held = _held[self._name]
            held.count -= 1
            if held.count == 0:
                del _held[self._name]
                _remove(os.path.join(self._name, FILE), held.descriptor)

    @property
    def taken(self) -> bool:
        return self._taken > 0

    def _locked_file(self) -> int:
        path = os.path.join(self._name, FILE)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                _lock(descriptor)
                # Its last holder may have removed the file between the two lines above.
                if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise self._refusal() from None
            except FileNotFoundError:
                pass
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _refusal(self) -> UsageError:
        return UsageError(
            f"another run is writing into '{self.folder}': wait until it has ended, or choose another folder."
        )


def _remove(path: str, descriptor: int) -> None:
    try:
        if os.name != "nt":  # where an open file cannot be removed, it stays
            os.unlink(path)
    except OSError:  # the folder may be gone
        pass
    os.close(descriptor)


def _lock(descriptor: int) -> None:
    """BlockingIOError: another process has it."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except PermissionError as error:
            raise BlockingIOError from error
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
