"""How a run is shown while it goes: one live line on a terminal, elsewhere a line at every new best."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from genscale.engine.archive import Entry
from genscale.engine.events import BatchHalved, Denoised, Differentiated, Dropped, Event, Scored
from genscale.engine.plan import Plan


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line without their place in the code; none of those that libraries address to developers."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged images, which are refused or read
        warnings.showwarning = lambda message, *place: print(f"warning: {message}", file=sys.stderr)
        yield


class Tally:
    """Counts the events of a run, and describes its progress in text.

    nfe: of the whole run; candidates: of each prompt; both None where the search decides when it ends. seconds: the
    budget's limit of the whole run. each: NFE of one candidate, to give the speed in candidates. clock: in seconds.
    """

    def __init__(
        self,
        nfe: int | None = None,
        prompts: int = 1,
        candidates: int | None = None,
        seconds: float | None = None,
        each: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nfe, self.prompts, self.candidates, self.seconds = nfe, prompts, candidates, seconds
        self.each = each
        self.best: dict[int, Entry] = {}  # of drafts, until a candidate is finished
        self.drafts = 0
        self._clock, self._started = clock, clock()
        self._evaluations = 0
        self._finished: dict[int, int] = {}
        self._resumed: dict[int, int] = {}  # NFE of each prompt that an earlier process spent

    def add(self, event: Event) -> bool:
        """Count an event; whether it is a new best of its prompt."""
        if isinstance(event, Denoised | Differentiated):
            self._evaluations = event.evaluations
        if not isinstance(event, Scored):
            return False
        prompt = event.entry.prompt
        if event.media is None:  # restored from the archive
            self._resumed[prompt] = max(self._resumed.get(prompt, 0), event.entry.nfe)
        if event.entry.final and event.draft:
            self.drafts += 1
        elif event.entry.final:
            self._finished[prompt] = self._finished.get(prompt, 0) + 1
        fresh = event.best is not None and self.best.get(prompt) is not event.best
        if event.best is not None:
            self.best[prompt] = event.best
        return fresh

    @property
    def done(self) -> int:
        """NFE so far, those of an earlier process included."""
        return self._evaluations + sum(self._resumed.values())

    def text(self) -> str:
        """Candidates and prompts done, speed, and time left: "12/64 candidates, 1/4 prompts, 3.1/s, 42 s left"."""
        finished = sum(self._finished.values())
        drafts = [f"{self.drafts} draft" + ("" if self.drafts == 1 else "s")] if self.drafts else []
        if self.candidates is None:
            parts = [f"{finished} candidate" + ("" if finished == 1 else "s")] if finished else []
        else:
            parts = [f"{finished}/{self.candidates * self.prompts} candidates"]
            full = sum(n >= self.candidates for n in self._finished.values())
            parts += [f"{full}/{self.prompts} prompts"] if self.prompts > 1 else []
        elapsed = self._clock() - self._started
        left = self._left(elapsed)
        parts.append(self._speed(elapsed))
        parts.append(f"{elapsed_text(elapsed)} so far" if left is None else f"{elapsed_text(left)} left")
        return ", ".join(part for part in drafts + parts if part)

    def best_text(self) -> str:
        totals = [best.total for best in self.best.values() if best.total is not None]
        if not totals:
            return ""
        what = "best draft" if self.drafts and not self._finished else "best"
        name = what if self.prompts == 1 else f"mean {what} of {len(totals)}/{self.prompts}"
        return f"{name} {sum(totals) / len(totals):.4g}"

    def _speed(self, elapsed: float) -> str:
        """Candidates per second, or seconds of each; evaluations per second where the cost of one is not known."""
        if elapsed <= 0 or self._evaluations == 0:
            return ""
        if self.each is None:
            return f"{self._evaluations / elapsed:.3g} NFE/s"
        rate = self._evaluations / self.each / elapsed
        if rate >= 1:
            return f"{rate:.3g}/s"
        return f"{1 / rate:.2g} s each" if rate > 0.1 else f"{elapsed_text(1 / rate)} each"

    def _left(self, elapsed: float) -> float | None:
        """Seconds to the end at the speed so far, and at most what the budget leaves; None if unknown."""
        limits = []
        if self.nfe is not None and self._evaluations > 0:
            limits.append(elapsed * max(0, self.nfe - self.done) / self._evaluations)
        if self.seconds is not None:
            limits.append(max(0.0, self.seconds - elapsed))
        return min(limits, default=None)


def elapsed_text(seconds: float) -> str:
    """A duration: "42 s", "3 min 20 s", "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Display:
    """Listens to the engine's events and shows them on stderr. quiet: it shows nothing.

    shows_estimates: whether it wants to be told of candidates under way.
    """

    shows_estimates = False

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._tally = Tally()
        self._bar: Progress | None = None
        self._task: Any = None
        self._preview: Path | None = None  # where candidates under way are shown

    def say(self, text: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Show what is being done, such as loading a model, with a spinner; on a terminal only."""
        if self.quiet or not self.console.is_terminal:
            yield
            return
        with self.console.status(text):
            yield

    def start(self, plan: Plan) -> None:
        """The search begins."""
        nfe = None if plan.nfe is None else plan.nfe * plan.prompts
        self._tally = Tally(nfe, plan.prompts, plan.candidates, plan.budget.seconds, plan.nfe_per_candidate)
        if self.quiet or not self.console.is_terminal:
            return
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[left]}"),
            TextColumn("[bold green]{task.fields[best]}"),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("search", total=nfe, left=self._tally.text(), best="")
        self._bar.start()

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def previewed(self, path: Path) -> None:
        """Candidates under way are shown in this file."""
        if self._preview is None and self._bar is None:
            self.say(f"candidates under way: {path}")
        self._preview = path

    def preview_text(self) -> str:
        return "" if self._preview is None else f"; under way: {self._preview}"

    def __call__(self, event: Event) -> None:
        fresh = self._tally.add(event)
        if isinstance(event, Scored):
            self._preview = None
        if isinstance(event, BatchHalved):
            what = "images decoded together" if event.decoding else "batches"
            self.say(f"memory ran out: {what} of at most {event.batch_size} from now on")
        if isinstance(event, Dropped):
            self.say(event.text)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=self._tally.done,
                left=self._tally.text() + self.preview_text(),
                best=self._tally.best_text(),
            )
        elif fresh and isinstance(event, Scored) and event.best is not None:
            self._print_best(event, event.best)

    def _print_best(self, event: Scored, best: Entry) -> None:
        prompts = self._tally.prompts
        where = f"prompt {event.entry.prompt + 1}/{prompts}  " if prompts > 1 else ""
        score = "" if best.total is None else f"  score {best.total:.4g}"
        what = "new best draft" if event.draft else "new best"
        self.say(f"{where}{event.entry.nfe} NFE  {what}: candidate {best.candidate.id}{score}")
