"""Which finished candidates of a search the user called right or wrong, as labels for `genscale calibrate-verifier`."""

from __future__ import annotations

import csv
import io
import threading
from pathlib import Path

FILE = "labels.csv"


class Labels:
    """Labels by (prompt, candidate id). They are written into the folder of the search once it is over."""

    def __init__(self) -> None:
        self._right: dict[tuple[int, int], bool] = {}
        self._folder: Path | None = None
        self._lock = threading.Lock()  # the page labels while the thread of the search ends it

    def of(self, prompt: int, candidate: int) -> bool | None:
        return self._right.get((prompt, candidate))

    def toggle(self, prompt: int, candidate: int, right: bool) -> None:
        """Label a candidate; the same label once more removes it."""
        with self._lock:
            if self._right.pop((prompt, candidate), None) is not right:
                self._right[prompt, candidate] = right
            self._write()

    def keep_in(self, folder: Path) -> None:
        """The search is over: write what is there, and every label from now on, into its folder."""
        with self._lock:
            self._folder = folder
            self._write()

    def path(self) -> Path | None:
        """The file; None where there is nothing to write, or the search goes on."""
        return None if self._folder is None or not self._right else self._folder / FILE

    def _write(self) -> None:
        if (
            self._folder is None or not self._folder.is_dir()
        ):  # a folder may be removed before its page is closed
            return
        file = self._folder / FILE
        if not self._right:
            file.unlink(missing_ok=True)
            return
        part = file.with_suffix(".part")
        part.write_text(self.csv(), encoding="utf-8")
        part.replace(file)

    def csv(self) -> str:
        """Columns prompt (its number from 0), candidate and label (1 or 0)."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("prompt", "candidate", "label"))
        rows.writerows((*where, int(right)) for where, right in sorted(self._right.items()))
        return text.getvalue()
