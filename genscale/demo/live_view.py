"""A search as it is seen from outside while it runs: its candidates best first, with small images, and its cost.

The search's own thread tells (`Watch` is the display of a run), any other may look (`shown`).
"""

from __future__ import annotations

import io
import threading
from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from genscale.engine.events import BatchHalved, Denoised, Differentiated, Event, Scored
from genscale.protocol.particles import OWN
from genscale.runs.progress import Display

if TYPE_CHECKING:
    from genscale.engine.archive import Entry
    from genscale.media import Media

MOST = 24  # images of a prompt that are shown
ROWS = 60  # candidates of a prompt that are listed
HELD = 400  # images of a prompt that are held while the search runs
SIDE = 320  # of a small image, the longest
SMALL = 128  # up to here an image is kept as it is, without loss


@dataclass(frozen=True)
class CandidateRow:
    """A scored candidate. step: how far it is, for one that is not final. picture: its key in `Watch.pictures`."""

    id: int
    step: int
    final: bool
    total: float
    scores: dict[str, float]
    held_out: dict[str, float]
    nfe: int
    picture: str

    @property
    def own(self) -> bool:
        """Whether it is the pipeline's own, which it alone would have given."""
        return self.id == OWN


@dataclass(frozen=True)
class Seen:
    """One prompt's candidates at a moment: the best finished ones, the pipeline's own, previews on the way."""

    finals: tuple[CandidateRow, ...] = ()
    base: CandidateRow | None = None
    previews: tuple[CandidateRow, ...] = ()
    finished: int = 0

    @property
    def best(self) -> CandidateRow | None:
        return self.finals[0] if self.finals else None

    @property
    def tiles(self) -> tuple[CandidateRow, ...]:
        """Those whose images are shown, best first; previews after what is finished."""
        return (*self.finals[:MOST], *self.previews)[:MOST]


@dataclass
class _Prompt:
    finals: list[CandidateRow] = field(default_factory=list)  # best first, among equals the one scored first
    base: CandidateRow | None = None
    previews: dict[int, CandidateRow] = field(default_factory=dict)
    step: int = -1  # that of the previews
    finished: int = 0


class Watch(Display):
    """Listens to a run. changes: grows with everything that is worth a new look."""

    def __init__(self, prompts: int) -> None:
        super().__init__(quiet=True)
        self.nfe, self.planned = 0, 0
        self.began = self.ended = False
        self.notes: list[str] = []
        self.pictures: dict[str, bytes] = {}
        self.changes = 0
        self._seen = [_Prompt() for _ in range(prompts)]
        self._lock = threading.Lock()

    # ---------------------------------------------------------------- told by the search

    def start(self, nfe: int | None, prompts: int, *more: int | float | None) -> None:
        self.planned, self.began = nfe or 0, True
        self.changes += 1

    def stop(self) -> None:
        self.ended = True
        self.changes += 1

    def say(self, text: str) -> None:
        """Meant for a terminal: it names folders of this machine."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Denoised | Differentiated):
            self.nfe = event.evaluations
        elif isinstance(event, Scored) and event.entry.total is not None:
            with self._lock:
                self._enter(event.entry, event.entry.total, event.media)
        elif isinstance(event, BatchHalved):
            self.notes.append(f"memory ran out: batches of at most {event.batch_size} from now on")
        self.changes += 1

    def _enter(self, entry: Entry, total: float, media: Media | None) -> None:
        seen = self._seen[entry.prompt]
        key = f"{entry.prompt}-{entry.candidate.id}-{entry.step}"
        row = CandidateRow(
            entry.candidate.id, entry.step, entry.final, total, dict(entry.scores), dict(entry.held_out),
            entry.nfe, key,
        )  # fmt: skip
        if entry.final:
            seen.finished += 1
            seen.previews.pop(row.id, None)
            insort(seen.finals, row, key=lambda r: -r.total)
            del seen.finals[ROWS:]
            seen.base = row if row.own else seen.base
        else:
            if entry.step != seen.step:  # the population has moved on
                seen.previews, seen.step = {}, entry.step
            seen.previews[row.id] = row
        if media is not None and (row.own or not entry.final or row in seen.finals[:MOST]):
            self.pictures[key] = encoded(still(media))
            if len(self.pictures) > HELD * len(self._seen):
                self._thin(HELD // 2)

    def _thin(self, late: int) -> None:
        """Forget images that fell out of the gallery, all but so many of the last: a page may still ask for them."""
        wanted = {r.picture for s in self._seen for r in (*s.finals[:MOST], *s.previews.values())}
        wanted |= {s.base.picture for s in self._seen if s.base is not None}
        others = [key for key in self.pictures if key not in wanted]
        for key in others[: max(len(others) - late, 0)]:
            del self.pictures[key]

    # ---------------------------------------------------------------- for those who look

    def settle(self) -> None:
        """Hold only what the last look shows."""
        with self._lock:
            self._thin(0)

    def shown(self, prompt: int) -> Seen:
        with self._lock:
            seen = self._seen[prompt]
            previews = () if self.ended else sorted(seen.previews.values(), key=lambda r: -r.total)[:MOST]
            return Seen(tuple(seen.finals), seen.base, tuple(previews), seen.finished)


def still(media: Media) -> Image.Image:
    """The first of a batch; of a video its middle frame."""
    item = media[0]
    return item[len(item) // 2] if isinstance(item, list) else item


def encoded(picture: Image.Image) -> bytes:
    """A file of it for the page: a PNG if it is small, else a smaller JPEG."""
    picture, file = picture.convert("RGB"), io.BytesIO()
    if max(picture.size) <= SMALL:
        picture.save(file, "PNG")
    else:
        picture.thumbnail((SIDE, SIDE))
        picture.save(file, "JPEG", quality=88)
    return file.getvalue()
