"""Removes the folders of searches that nobody will look at again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

LEFT = 3600.0  # seconds that a folder stays after its page was closed


class SearchFolders:
    """The folders that searches wrote. keep: none is removed."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self._due: dict[Path, float | None] = {}  # when each may be removed; None: not known yet

    def add(self, folder: Path) -> None:
        self._due[folder] = None

    def leave(self, folder: Path) -> None:
        """Its page was closed: it goes after LEFT seconds."""
        if folder in self._due:
            self._due[folder] = time.monotonic() + LEFT

    def remove(self, *folders: Path) -> None:
        """Remove these, and those whose time has come."""
        now = time.monotonic()
        late = [f for f, due in self._due.items() if due is not None and due <= now]
        for folder in {*folders, *late} & self._due.keys():
            del self._due[folder]
            if not self.keep:
                shutil.rmtree(folder, ignore_errors=True)
                if folder.parent.is_dir() and not any(folder.parent.iterdir()):
                    folder.parent.rmdir()

    def remove_all(self) -> None:
        self.remove(*list(self._due))
