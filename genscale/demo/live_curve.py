"""The score-against-NFE curve of a search that may still run, drawn from the archive in its folder."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

from genscale.demo.jobs import Job
from genscale.errors import UsageError
from genscale.report import score_curves
from genscale.report.prompt_summary import curve_name, curve_panels
from genscale.runs.saved_run import read_run

SHARE = 10  # drawing takes at most 1 / SHARE of the time


@dataclass
class LiveCurve:
    """Redraws the curve of one prompt when there are new candidates and the last drawing is old enough.

    png: the latest drawing. number: counts the drawings.
    """

    job: Job
    index: int = 0
    png: bytes | None = None
    number: int = 0
    _of: tuple[int, int] = (-1, -1)
    _next: float = 0.0

    def look(self, index: int) -> bool:
        """Redraw if it is due; return whether it was."""
        now, of = time.monotonic(), (index, self.job.watch.shown(index).finished)
        due = of != self._of and of[1] > 0 and (now >= self._next or self.job.over or index != self.index)
        if not due:
            return False
        try:
            png = drawn(self.job, index)
        except (UsageError, OSError, ValueError):  # the archive is being written, or is empty
            return False
        self._of, self.index, self.png, self.number = of, index, png, self.number + 1
        self._next = time.monotonic() + SHARE * (time.monotonic() - now)
        return True


def drawn(job: Job, index: int) -> bytes:
    """A PNG: a panel for the searched score and one for each held-out score."""
    summary = read_run(job.folder).summary(index)
    if not summary.finals:
        raise UsageError("nothing is finished yet.")
    panels = curve_panels({curve_name(1): [summary]})
    file = io.BytesIO()
    score_curves.draw(panels, "", file)
    return file.getvalue()
