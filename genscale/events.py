"""What a run tells while it goes, for progress bars, previews and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genscale.archive import Entry


@dataclass(frozen=True)
class Denoised:
    """A batch came back: evaluations so far of the whole run, rows of the batch."""

    evaluations: int
    rows: int


@dataclass(frozen=True)
class Scored:
    """A candidate was judged; best is the best finished one of its prompt, None before the first."""

    entry: Entry
    best: Entry | None


@dataclass(frozen=True)
class BatchHalved:
    """Memory ran out: from now on at most batch_size latents go through the model at once."""

    batch_size: int


Event = Denoised | Scored | BatchHalved
