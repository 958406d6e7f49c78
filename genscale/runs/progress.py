"""How a run is shown while it goes: a bar on a terminal, elsewhere a line at every new best."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from genscale.engine.archive import Entry
from genscale.engine.events import BatchHalved, Denoised, Differentiated, Event, Scored


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line without their place in the code; none of what libraries say to developers."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = lambda message, *place: print(f"warning: {message}", file=sys.stderr)
        yield


class Display:
    """Listens to the engine's events. `start` is told what the plan costs, where it is known."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._total: int | None = None
        self._evaluations = 0
        self._best: dict[int, Entry] = {}
        self._prompts = 1
        self._bar: Progress | None = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, nfe: int | None, prompts: int) -> None:
        """nfe: what the whole run will spend, None where only the budget's end tells."""
        self._total, self._prompts = nfe, prompts
        if self.quiet or not self.console.is_terminal:
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("searching"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[left]}"),
            TextColumn("[bold green]{task.fields[best]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("search", total=nfe, left=self._left(), best="")
        self._bar.start()

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Denoised | Differentiated):
            self._evaluations = event.evaluations
        elif isinstance(event, Scored):
            self._judged(event)
        elif isinstance(event, BatchHalved):
            self.say(f"memory ran out: batches of at most {event.batch_size} from now on")
        if self._bar is not None:
            self._bar.update(
                self._task, completed=self._evaluations, left=self._left(), best=self._best_text()
            )

    def _judged(self, event: Scored) -> None:
        if event.best is None:
            return
        prompt = event.entry.prompt
        fresh = self._best.get(prompt) is not event.best
        self._best[prompt] = event.best
        if fresh and self._bar is None:
            where = f"prompt {prompt + 1}/{self._prompts}  " if self._prompts > 1 else ""
            score = "" if event.best.total is None else f"  score {event.best.total:.4g}"
            name = f"candidate {event.best.candidate.id}"
            self.say(f"{where}{event.entry.nfe} NFE  new best: {name}{score}")

    def _left(self) -> str:
        if self._total is None:
            return f"{self._evaluations} NFE spent"
        return f"{max(0, self._total - self._evaluations)} NFE left"

    def _best_text(self) -> str:
        known = [best.total for best in self._best.values() if best.total is not None]
        if not known:
            return ""
        name = "best" if self._prompts == 1 else f"mean best of {len(known)}/{self._prompts}"
        return f"{name} {sum(known) / len(known):.4g}"
