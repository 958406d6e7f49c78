"""The best so far as an image in the run's folder, rewritten as the search goes.

It looks only at what was decoded for the verifiers anyway: it costs no decode, and the search cannot tell it is there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from genscale.engine.events import Event, Scored
from genscale.errors import UsageError
from genscale.report import film_strip
from genscale.runs.run_folder import PREVIEW, RunFolder

if TYPE_CHECKING:
    from genscale.media import Media

EVERY = 3.0  # seconds between two writes, at least
MOST = 36  # prompts on one preview
TILE, GAP = 256, 8  # of several prompts, the longest side of each image


class Preview:
    """Listens to the engine's events. `close` removes the image: the results take its place."""

    def __init__(
        self, folder: RunFolder, every: float = EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.every, self.clock = folder, every, clock
        self._best: dict[int, Media] = {}
        self._changed = False
        self._written = -math.inf
        self._broken = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Scored) and event.entry is event.best and event.media is not None:
            prompt = event.entry.prompt
            if prompt in self._best or len(self._best) < MOST:
                self._best[prompt] = _apart(event.media)
                self._changed = True
        if self._changed and not self._broken and self.clock() - self._written >= self.every:
            self._write()

    def close(self) -> None:
        self._best = {}
        self._changed = False
        (self.folder.path / PREVIEW).unlink(missing_ok=True)

    def _write(self) -> None:
        """A preview that cannot be written is no reason to end a search."""
        self._changed = False
        picture = _joined([_still(self._best[i], len(self._best) == 1) for i in sorted(self._best)])
        try:
            self.folder.write(PREVIEW, partial(picture.save, format="PNG"))
        except UsageError:
            self._broken = True
        self._written = self.clock()


def _apart(media: Media) -> Media:
    """A copy on its own device: a view would keep the whole batch in memory."""
    return type(media)(media.pixels.detach().clone())


def _still(media: Media, alone: bool) -> Image.Image:
    """The image; a video over time where it is alone, else its middle frame."""
    item = media[0]
    if isinstance(item, list):
        return film_strip.strip(item) if alone else item[len(item) // 2].convert("RGB")
    return item.convert("RGB")


def _joined(pictures: list[Image.Image]) -> Image.Image:
    """One as it is; several side by side, smaller."""
    if len(pictures) == 1:
        return pictures[0]
    for picture in pictures:
        picture.thumbnail((TILE, TILE))
    columns = math.ceil(math.sqrt(len(pictures)))
    wide, tall = (max(p.size[axis] for p in pictures) + GAP for axis in (0, 1))
    canvas = Image.new(
        "RGB", (columns * wide + GAP, math.ceil(len(pictures) / columns) * tall + GAP), "white"
    )
    for n, picture in enumerate(pictures):
        canvas.paste(picture, (GAP + n % columns * wide, GAP + n // columns * tall))
    return canvas
