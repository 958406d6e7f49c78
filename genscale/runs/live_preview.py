"""The best so far as an image in the run's folder, rewritten as the search goes.

It uses what was decoded for the verifiers: it costs no decoding and does not change the search.
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
from genscale.report import film_strip, item_pictures
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
                self._best[prompt] = _copied(event.media)
                self._changed = True
        if self._changed and not self._broken and self.clock() - self._written >= self.every:
            self._write()

    def close(self) -> None:
        self._best = {}
        self._changed = False
        (self.folder.path / PREVIEW).unlink(missing_ok=True)

    def _write(self) -> None:
        """A preview that cannot be written does not end the search."""
        self._changed = False
        image = _joined([_still(self._best[i], len(self._best) == 1) for i in sorted(self._best)])
        try:
            self.folder.write(PREVIEW, partial(image.save, format="PNG"))
        except UsageError:
            self._broken = True
        self._written = self.clock()


def _copied(media: Media) -> Media:
    """A copy: a view would keep the whole batch in memory."""
    return media.copied()


def _still(media: Media, alone: bool) -> Image.Image:
    """The picture; of a video its frames side by side where it is alone, else the middle frame."""
    item = media[0]
    if isinstance(item, list):
        return film_strip.strip(item) if alone else item[len(item) // 2].convert("RGB")
    return item_pictures.picture(item).convert("RGB")


def _joined(images: list[Image.Image]) -> Image.Image:
    """A single image as it is; several in a grid, smaller."""
    if len(images) == 1:
        return images[0]
    for image in images:
        image.thumbnail((TILE, TILE))
    columns = math.ceil(math.sqrt(len(images)))
    wide, tall = (max(p.size[axis] for p in images) + GAP for axis in (0, 1))
    canvas = Image.new("RGB", (columns * wide + GAP, math.ceil(len(images) / columns) * tall + GAP), "white")
    for n, image in enumerate(images):
        canvas.paste(image, (GAP + n % columns * wide, GAP + n // columns * tall))
    return canvas
