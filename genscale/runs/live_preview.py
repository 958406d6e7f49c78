"""The best so far as an image in the run's folder, rewritten as the search goes.

It uses what was decoded for the verifiers: it costs no decoding and does not change the search. Before there is
anything, it is a sheet of the candidates under way, if the search tells of them (`preview=` of `genscale.scale`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from genscale.engine.events import Estimated, Event, Scored
from genscale.errors import UsageError
from genscale.report import contact_sheet, film_strip, item_pictures
from genscale.runs.run_folder import PREVIEW, RunFolder

if TYPE_CHECKING:
    from genscale.media import Media

EVERY = 3.0  # seconds between two writes, at least
MOST = 36  # prompts on one preview; candidates under way on one sheet
LINE = 6  # candidates side by side
TILE, GAP = 256, 8  # of several prompts, the longest side of each image


class Preview:
    """Listens to the engine's events. `close` removes the image: the results take its place.

    every: seconds between two writings at least; what is under way is written whenever it is told of. prompts: their
    texts. shown: called with the file whenever it shows candidates under way.
    """

    def __init__(
        self,
        folder: RunFolder,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
        prompts: Sequence[str] = (),
        shown: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self.folder, self.every, self.clock = folder, every, clock
        self.prompts, self.shown = prompts, shown
        self._under_way: dict[
            tuple[int, int], contact_sheet.Tile
        ] = {}  # by prompt and candidate; the latest last
        self._best: dict[int, Media] = {}
        self._changed = False
        self._written = -math.inf
        self._broken = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Estimated) and not self._best and not self._broken:
            self._show(event)
        if isinstance(event, Scored) and event.entry is event.best and event.media is not None:
            prompt = event.entry.prompt
            if prompt in self._best or len(self._best) < MOST:
                self._best[prompt] = _copied(event.media)
                self._changed = True
        if self._changed and not self._broken and self.clock() - self._written >= self.every:
            self._write()

    def close(self) -> None:
        self._best, self._under_way = {}, {}
        self._changed = False
        (self.folder.path / PREVIEW).unlink(missing_ok=True)

    def _write(self) -> None:
        self._changed, self._under_way = False, {}
        self._save(_joined([_still(self._best[i], len(self._best) == 1) for i in sorted(self._best)]))
        self._written = self.clock()

    def _show(self, event: Estimated) -> None:
        """A sheet of the candidates under way. The first best is written at once after it."""
        for i, (prompt, candidate) in enumerate(zip(event.prompts, event.candidates, strict=True)):
            self._under_way.pop((prompt, candidate.id), None)
            picture, done = _still(event.media[i : i + 1], alone=False), f"{event.done[i]}/{event.steps}"
            picture.thumbnail((TILE, TILE))
            self._under_way[prompt, candidate.id] = contact_sheet.Tile(
                picture, f"candidate {candidate.id}", note=done
            )
        for key in list(self._under_way)[:-MOST]:
            del self._under_way[key]
        title = "under way: coarse pictures of what the model expects after so many of its steps; nothing is scored yet"
        self._save(contact_sheet.sheet(self._rows(), title))
        if not self._broken:
            self.shown(self.folder.path / PREVIEW)

    def _rows(self) -> list[contact_sheet.SheetRow]:
        """The sheet, LINE candidates side by side; the prompt stands above the first of its lines."""
        rows = []
        for prompt in sorted({prompt for prompt, _ in self._under_way}):
            tiles = [self._under_way[key] for key in sorted(self._under_way) if key[0] == prompt]
            text = self.prompts[prompt] if prompt < len(self.prompts) else ""
            for at in range(0, len(tiles), LINE):
                rows.append(contact_sheet.SheetRow("" if at else text, tuple(tiles[at : at + LINE])))
        return rows

    def _save(self, image: Image.Image) -> None:
        """A preview that cannot be written does not end the search."""
        try:
            self.folder.write(PREVIEW, partial(image.save, format="PNG"))
        except UsageError:
            self._broken = True


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
