"""`genscale.calibrate_verifier`: the command `genscale calibrate-verifier` for searches made in Python."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from genscale.commands import calibrate_verifier as command
from genscale.commands.calibrate_verifier import Labelling
from genscale.errors import UsageError
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.verifiers.calibrated import Calibrated


class Savable(Protocol):
    """A SearchResult."""

    def save(self, folder: str | Path) -> Path: ...


Run = str | Path | Savable


def calibrate_verifier(
    runs: Run | Sequence[Run],
    verifiers: str | Sequence[str] = (),
    *,
    out: str | Path,
    judge: str | None = None,
    labels: str | Path | None = None,
    right_at: float | None = None,
    pipe: Any = None,
    trust: bool = False,
) -> Calibrated:
    """A verifier that answers how likely an image is right, from labelled candidates, stored in the folder `out`.

    runs: folders of runs, or results of searches. They must be of best_of_n without pruning,
    searched with `verifiers`; with `previews=` previews are calibrated, too. The prompts together must be at least 4,
    better 30 or more.
    verifiers: names as on the command line ("shapes_clip"), combined to one probability. None given: those of the runs.
    judge: the name of the verifier that labels; right is a score of `right_at` or more, by default 0.5.
    labels: a CSV file of your own in place of a judge (columns image,label or prompt,candidate,label, and run, counted
    from 0, where there are several).
    pipe: the pipeline that made the candidates, for those that are still to be decoded; None loads it by its name.
    trust: run Python code that comes with that model.
    UsageError: the runs cannot be calibrated on, the labels do not fit, or `out` holds something else.
    """
    out, many = Path(out), (runs,) if isinstance(runs, str | Path) or hasattr(runs, "save") else tuple(runs)
    if not many:
        raise UsageError(
            "there are no candidates to calibrate on: give runs, folders or results of searches."
        )
    names = (verifiers,) if isinstance(verifiers, str) else tuple(verifiers)
    labelling = Labelling(judge, right_at, None if labels is None else Path(labels), trust, pipe)
    with tempfile.TemporaryDirectory() as place:
        folders = [_folder(run, Path(place) / str(i)) for i, run in enumerate(many)]
        command.calibrate_verifier(
            Request(verifiers=names), folders, labelling, candidates=0, previews=(), out=out,
            display=Display(quiet=True),
        )  # fmt: skip
    return Calibrated(folder=str(out))


def _folder(run: Run, place: Path) -> Path:
    return Path(run) if isinstance(run, str | Path) else run.save(place)
