"""A running search as other threads see it: its candidates best first, with images, and its cost.

The thread of the search reports to `Watch`, the display of the run; every other thread may call `shown`.
"""

from __future__ import annotations

import io
import threading
import time
from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from genscale.engine.events import BatchHalved, Denoised, Differentiated, Dropped, Estimated, Event, Scored
from genscale.protocol.particles import OWN
from genscale.report import item_pictures
from genscale.runs.progress import Display

if TYPE_CHECKING:
    from genscale.engine.archive import Entry
    from genscale.engine.plan import Plan
    from genscale.media import Media

MOST = 24  # images of a prompt in the gallery
ROWS = 60  # candidates of a prompt in the table
HELD = 400  # small images of a prompt held in memory while the search runs
SIDE = 320  # longest side of a small image, in pixels
SMALL = 128  # images up to this side are kept as they are, as PNG
LEAST = 64  # longest side of the picture of a candidate under way, at least: coarse ones are enlarged


@dataclass(frozen=True)
class CandidateRow:
    """A scored candidate. step: steps done, for a preview. image: its key in `Watch.images`."""

    id: int
    step: int
    final: bool
    total: float
    scores: dict[str, float]
    held_out: dict[str, float]
    nfe: int
    image: str

    @property
    def own(self) -> bool:
        """Whether it is candidate 0, the image of the pipeline without a search."""
        return self.id == OWN


@dataclass(frozen=True)
class UnderWay:
    """A candidate before there is a score. done: model calls behind it, of `steps`. image: as of CandidateRow."""

    id: int
    done: int
    steps: int
    image: str


Tile = CandidateRow | UnderWay


@dataclass(frozen=True)
class Seen:
    """The candidates of one prompt at one moment: the best finished ones, the base, previews; before there are any,
    those under way."""

    finals: tuple[CandidateRow, ...] = ()
    base: CandidateRow | None = None
    previews: tuple[CandidateRow, ...] = ()
    finished: int = 0
    under_way: tuple[UnderWay, ...] = ()

    @property
    def best(self) -> CandidateRow | None:
        return self.finals[0] if self.finals else None

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The rows of the gallery, best first; then previews; where nothing is scored those under way."""
        return (*self.finals[:MOST], *self.previews)[:MOST] or self.under_way[-MOST:]


@dataclass
class _Prompt:
    finals: list[CandidateRow] = field(default_factory=list)  # best first; of equals the one scored first
    base: CandidateRow | None = None
    previews: dict[int, CandidateRow] = field(default_factory=dict)
    step: int = -1  # of the previews
    finished: int = 0
    under_way: dict[int, UnderWay] = field(default_factory=dict)


class Watch(Display):
    """Listens to a run.

    changes: a counter that grows with every event. images: small images by key. large: the same in full size, for
    finished candidates in the gallery whose image is larger than the small one. estimates: whether candidates under way
    are shown.
    """

    def __init__(self, prompts: int, estimates: bool = False) -> None:
        super().__init__(quiet=True)
        self.shows_estimates = estimates
        self.nfe, self.planned = 0, 0
        self.began = self.ended = False
        self.notes: list[str] = []
        self.images: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.changes = 0
        self._seen = [_Prompt() for _ in range(prompts)]
        self._lock = threading.Lock()
        self._started = 0.0

    # ---------------------------------------------------------------- called by the thread of the search

    def start(self, plan: Plan) -> None:
        self._started = time.monotonic()
        self.planned, self.began = (plan.nfe or 0) * plan.prompts, True
        self.changes += 1

    def stop(self) -> None:
        self.ended = True
        self.changes += 1

    def say(self, text: str) -> None:
        """Nothing: this text is for a terminal and names folders of this machine."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Denoised | Differentiated):
            self.nfe = event.evaluations
        elif isinstance(event, Scored) and event.entry.total is not None:
            with self._lock:
                self._enter(event.entry, event.entry.total, event.media)
        elif isinstance(event, Estimated):
            with self._lock:
                self._enter_under_way(event)
        elif isinstance(event, BatchHalved):
            self.notes.append(f"memory ran out: batches of at most {event.batch_size} from now on")
        elif isinstance(event, Dropped):
            self.notes.append(event.text)
        self.changes += 1

    def _enter_under_way(self, event: Estimated) -> None:
        for i, (prompt, candidate) in enumerate(zip(event.prompts, event.candidates, strict=True)):
            done, under_way = event.done[i], self._seen[prompt].under_way
            row = UnderWay(candidate.id, done, event.steps, f"{prompt}-{candidate.id}-after-{done}")
            self.images[row.image] = encoded(enlarged(still(event.media[i : i + 1])))
            under_way.pop(row.id, None)  # the latest last
            under_way[row.id] = row
            for old in list(under_way)[:-MOST]:
                del under_way[old]
        if len(self.images) > HELD * len(self._seen):
            self._thin(HELD // 2)

    def _enter(self, entry: Entry, total: float, media: Media | None) -> None:
        seen = self._seen[entry.prompt]
        seen.under_way = {}
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
            if entry.step != seen.step:  # the population has moved on to another step
                seen.previews, seen.step = {}, entry.step
            seen.previews[row.id] = row
        if media is not None and (row.own or not entry.final or row in seen.finals[:MOST]):
            self._keep_image(row, still(media))

    def _keep_image(self, row: CandidateRow, image: Image.Image) -> None:
        self.images[row.image] = encoded(image)
        if len(self.images) > HELD * len(self._seen):
            self._thin(HELD // 2)
        if row.final and max(image.size) > SMALL:
            self.large[row.image] = jpeg(image)
            wanted = self._wanted()
            self.large = {key: data for key, data in self.large.items() if key in wanted}

    def _wanted(self) -> set[str]:
        """The keys of images that the gallery and the pair show."""
        wanted = {r.image for s in self._seen for r in (*s.finals[:MOST], *s.previews.values())}
        wanted |= {r.image for s in self._seen for r in s.under_way.values()}
        return wanted | {s.base.image for s in self._seen if s.base is not None}

    def _thin(self, late: int) -> None:
        """Drop images that left the gallery, except the latest `late` ones: a page may still ask for them."""
        wanted = self._wanted()
        others = [key for key in self.images if key not in wanted]
        for key in others[: max(len(others) - late, 0)]:
            del self.images[key]

    # ---------------------------------------------------------------- called by any thread

    def settle(self) -> None:
        """Keep only the images that are shown."""
        with self._lock:
            self._thin(0)

    def shown(self, prompt: int) -> Seen:
        with self._lock:
            seen = self._seen[prompt]
            previews = () if self.ended else sorted(seen.previews.values(), key=lambda r: -r.total)[:MOST]
            under_way = () if self.ended else tuple(seen.under_way[i] for i in sorted(seen.under_way))
            return Seen(tuple(seen.finals), seen.base, tuple(previews), seen.finished, under_way)

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the NFE so far; None where the plan is unknown or little was spent."""
        if not self.began or self.ended or not 0 < self.nfe <= self.planned:
            return None
        return (time.monotonic() - self._started) * (self.planned - self.nfe) / self.nfe


def still(media: Media) -> Image.Image:
    """The picture of the first item of a batch; of a video its middle frame."""
    item = media[0]
    return item[len(item) // 2] if isinstance(item, list) else item_pictures.picture(item)


def enlarged(image: Image.Image) -> Image.Image:
    """A coarse picture, smoothly, so that its longest side is LEAST pixels or more."""
    factor = -(-LEAST // max(image.size))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image) -> bytes:
    """A small file for the page: PNG up to SMALL pixels, else a JPEG of at most SIDE pixels."""
    image = image.convert("RGB")
    if max(image.size) <= SMALL:
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()
    image.thumbnail((SIDE, SIDE))
    return jpeg(image)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()
