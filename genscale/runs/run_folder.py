"""The folder of a run: known to be writable before anything is computed, and gone again after a refusal."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.runs import request as requests
from genscale.runs.request import Request

PREVIEW = "preview.png"
_OURS = (requests.FILE, "archive.jsonl", "latents")


class RunFolder:
    """Claim it first, then `begin`, then `write` each result; `abandon` after a failure."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._new: list[Path] = []  # folders made here, outermost first
        self._found: set[str] = set()

    @staticmethod
    def fresh(parent: Path = Path("runs")) -> Path:
        """A name nobody has used: the date and time."""
        name = time.strftime("%Y-%m-%d_%H-%M-%S")
        path, n = parent / name, 2
        while path.exists():
            path, n = parent / f"{name}-{n}", n + 1
        return path

    def claim(self) -> None:
        """Make the folder and try to write to it."""
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._new = missing[::-1]
            probe = self.path / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
            self._found = set(os.listdir(self.path))
        except OSError as error:
            self._remove_new()
            raise UsageError(
                f"cannot write to '{self.path}' ({error.strerror}): choose another folder with --out."
            ) from None

    def settle(self, request: Request) -> Request:
        """The request with its seed: the folder's where it holds this very run, else as given or drawn."""
        if requests.FILE in self._found:
            earlier = requests.load_folder(self.path)
            if request.seed is None:
                request = replace(request, seed=earlier.seed)
            differing = request.anchored().difference(earlier)
            if differing is not None:
                raise UsageError(
                    f"'{self.path}' holds another run (its {differing} differs): choose another folder with "
                    f"--out, or go on with that one: genscale resume {self.path}"
                )
        return request.seeded()

    def begin(self, request: Request) -> None:
        """Leave the request in the folder, for `resume`."""
        self.write_json(requests.FILE, request.anchored().as_dict())

    def write(self, name: str, save: Callable[[Path], None]) -> Path:
        """Have `save` write a file that appears under its name only when it is whole."""
        path = self.path / name
        partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
        try:
            save(partial)
            os.replace(partial, path)
        except OSError as error:
            raise UsageError(f"cannot write '{path}' ({error.strerror or error}).") from error
        finally:
            partial.unlink(missing_ok=True)
        return path

    def write_json(self, name: str, data: Any) -> Path:
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"

        def save(path: Path) -> None:
            path.write_text(text, encoding="utf-8")

        return self.write(name, save)

    @property
    def has_work(self) -> bool:
        """Whether anything was computed that a resumed run would use."""
        latents = self.path / "latents"
        return latents.is_dir() and any(latents.iterdir())

    def abandon(self) -> bool:
        """Leave no trace, unless something was computed: that is kept (True), for `genscale resume`."""
        if self.has_work:
            return True
        for name in _OURS:
            path = self.path / name
            if name in self._found or not path.exists():
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._remove_new()
        return False

    def _remove_new(self) -> None:
        for path in reversed(self._new):
            try:
                path.rmdir()
            except OSError:  # somebody put something there meanwhile
                return
        self._new = []
