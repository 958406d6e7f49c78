"""The folder of a run: it holds its request, and it is removed again where nothing was computed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from genscale.errors import UsageError
from genscale.report.output_folder import OutputFolder
from genscale.runs import read_request
from genscale.runs import request as requests
from genscale.runs.request import Request
from genscale.runs.run_record import missing_parts, read_record

PREVIEW = "preview.png"
_OURS = (requests.FILE, "archive.jsonl", "latents")


def refuse_incomplete(folder: Path) -> None:
    """UsageError if the folder was saved from Python and does not hold all that its search needs."""
    names = missing_parts(read_record(folder) or {})
    if names:
        raise UsageError(f"the run in '{folder}' cannot be searched again: it does not hold {names}.")


class RunFolder(OutputFolder):
    """Claim it first, then `begin`, then `write` each result; `abandon` after a failure."""

    @staticmethod
    def claimed(out: Path | None) -> RunFolder:
        """Claim a folder; without a name a new one of the date and time, which no other run has."""
        if out is not None:
            folder = RunFolder(out)
            folder.claim()
            return folder
        while True:
            folder = RunFolder(RunFolder.fresh())
            try:
                folder.claim(new=True)
            except FileExistsError:  # another run was faster
                continue
            return folder

    @staticmethod
    @contextmanager
    def for_calibration(out: Path | None, file: str, what: str = "calibration") -> Iterator[RunFolder]:
        """A claimed folder, abandoned where the block raises, and released after it.

        file: written last, so that a folder that has it is complete; it holds a `what`. UsageError: the folder has it
        already.
        """
        folder = RunFolder.claimed(out)
        try:
            if folder.held(file):
                raise UsageError(f"'{folder.path}' holds a {what} already: choose another folder with --out.")
            yield folder
        except BaseException:
            folder.abandon()
            raise
        finally:
            folder.release()

    @staticmethod
    def fresh(parent: Path = Path("runs")) -> Path:
        """A name that is not taken: the date and time."""
        name = time.strftime("%Y-%m-%d_%H-%M-%S")
        path, n = parent / name, 2
        while path.exists():
            path, n = parent / f"{name}-{n}", n + 1
        return path

    def settle(self, request: Request) -> Request:
        """The request with its seed: the folder's where it holds this very run, else as given or drawn."""
        if self.held(requests.FILE):
            refuse_incomplete(self.path)
            earlier = read_request.load_folder(self.path)
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

    def held(self, name: str) -> bool:
        """Whether a file of this name was there when it was claimed."""
        return name in self._found

    @property
    def has_work(self) -> bool:
        """Whether anything was computed that a resumed run would use."""
        latents = self.path / "latents"
        return latents.is_dir() and any(latents.iterdir())

    def abandon(self) -> bool:
        """Remove what was written, unless something was computed: that is kept (True), for `genscale resume`."""
        if self.has_work:
            return True
        if not self.is_claimed:  # what is there is another run's
            return False
        for name in _OURS:
            path = self.path / name
            if name in self._found or not path.exists():
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.release()
        self.remove_new()
        return False
