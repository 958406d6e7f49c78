"""What a run tells while it goes, for progress bars, previews and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genscale.engine.archive import Entry
    from genscale.media import Media


@dataclass(frozen=True)
class Denoised:
    """A batch came back: evaluations so far of the whole run (backwards counted as the budget does), rows of it."""

    evaluations: int
    rows: int


@dataclass(frozen=True)
class Differentiated:
    """Gradients of so many rows are known; evaluations as in Denoised."""

    evaluations: int
    rows: int


@dataclass(frozen=True)
class Scored:
    """A candidate was judged; best is the best finished one of its prompt, None before the first.

    media: what the judges saw of it, decoded; None of one that an earlier life of the run had judged.
    """

    entry: Entry
    best: Entry | None
    media: Media | None = None


@dataclass(frozen=True)
class BatchHalved:
    """Memory ran out: from now on at most batch_size latents go through the model at once."""

    batch_size: int


Event = Denoised | Differentiated | Scored | BatchHalved
