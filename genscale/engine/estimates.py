"""Shows clean estimates of candidates that are under way, until their prompt has pictures of scored ones.

A search shows nothing by itself before its first candidates are decoded and scored. With these, a few of the model
calls on the way also give a picture. They decide nothing and draw nothing: results are the same bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.diffusion.prediction import View
from genscale.engine.events import Estimated, Event, Scored
from genscale.engine.search import Search
from genscale.media import Media
from genscale.protocol.particles import Candidate, Particles

SHARES = (0.25, 0.5, 0.75)  # of a run after which it is shown (ours); before a quarter estimates are blurs
MOST = 16  # candidates shown together
EVERY = 1.0  # seconds between two showings, at least
IDLE = 10  # times as long as a showing took until the next one, at least: previews take a tenth of the time at most

Picture = Callable[[Tensor, tuple[int, ...]], Media | None]
"""(clean estimates [n, *latent], prompt index of each row) -> coarse images or videos; None: there are none."""


def shown_calls(steps: int) -> frozenset[int]:
    """The model calls, of so many, whose estimates are shown."""
    return frozenset(max(1, math.ceil(share * steps)) - 1 for share in SHARES)


@dataclass
class _Rows:
    """Clean estimates [n, *latent] of candidates of one prompt after so many of its steps."""

    search: Search
    candidates: tuple[Candidate, ...]
    done: int
    x0: Tensor


class Estimates:
    """picture: makes the pictures. on_event: is told of them, and of all else by `event`. clock: in seconds."""

    def __init__(
        self, picture: Picture, on_event: Callable[[Event], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.picture, self.on_event, self.clock = picture, on_event, clock
        self._pictured: set[int] = set()  # prompts with a picture of a scored candidate
        self._due = -math.inf
        self._waiting: list[_Rows] = []

    def event(self, event: Event) -> None:
        """Pass an event on, and see whether its prompt has a picture now."""
        if isinstance(event, Scored) and event.media is not None:
            self._pictured.add(event.entry.prompt)
        self.on_event(event)

    def note(self, search: Search, particles: Particles, output: Tensor, x: Tensor) -> None:
        """A model call was made: its output [n, ...] at the latents x [n, *latent]."""
        process, step = search.process, particles.step
        room = MOST - sum(len(rows.candidates) for rows in self._waiting)
        plain = isinstance(process.view, View) and not particles.inner
        if room <= 0 or not plain or search.index in self._pictured or self.clock() < self._due:
            return
        if step not in shown_calls(process.steps):
            return
        some = particles[:room]
        x0 = process.predict(some, output[:room], x[:room]).x0.to(x.dtype)
        self._waiting.append(_Rows(search, some.candidates, step + 1, x0))

    def show(self) -> None:
        """Make pictures of what was noted since, and tell about them."""
        parts, self._waiting = self._waiting, []
        if not parts:
            return
        begun = self.clock()
        prompts = tuple(rows.search.index for rows in parts for _ in rows.candidates)
        media = self.picture(torch.cat([rows.x0 for rows in parts]), prompts)
        if media is not None:
            self.on_event(
                Estimated(
                    media,
                    prompts,
                    tuple(c for rows in parts for c in rows.candidates),
                    tuple(rows.done for rows in parts for _ in rows.candidates),
                    parts[0].search.process.steps,
                )
            )
        now = self.clock()
        self._due = now + max(EVERY, IDLE * (now - begun))
