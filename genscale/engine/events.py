"""Events of a run, for progress bars, previews and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genscale.engine.archive import Entry
    from genscale.engine.failures import Failure
    from genscale.media import Media
    from genscale.protocol.particles import Candidate


@dataclass(frozen=True)
class Denoised:
    """A batch was evaluated.

    evaluations: NFE of the whole run so far, as the budget counts them. rows: of this batch.
    """

    evaluations: int
    rows: int


@dataclass(frozen=True)
class Differentiated:
    """The gradients of a group of rows are finished.

    evaluations: NFE of the whole run so far, as the budget counts them. rows: of this group.
    """

    evaluations: int
    rows: int


@dataclass(frozen=True)
class Scored:
    """A candidate was scored. best: the best finished candidate of its prompt, None before the first.

    media: the image or video that was scored; None if the score comes from the archive of a resumed run. draft: whether
    it is a draft (`draft=` of a search); best is then the best draft.
    """

    entry: Entry
    best: Entry | None
    media: Media | None = None
    draft: bool = False


@dataclass(frozen=True)
class Dropped:
    """A candidate was dropped, because its latents, its pixels, its gradient or a score of it are not finite.

    text: what was found and where, as one sentence.
    """

    failure: Failure
    text: str


@dataclass(frozen=True)
class BatchHalved:
    """Memory ran out. batch_size: from now on at most so many latents in one batch.

    decoding: whether this is the batch that is decoded and scored; otherwise that of the model.
    """

    batch_size: int
    decoding: bool = False


@dataclass(frozen=True)
class Estimated:
    """Candidates under way, as the model expects them to become: only with `preview=` of `genscale.scale`.

    media: an image or video of the clean estimate of each, small and coarse. prompts: index of each one's prompt.
    candidates: in the same order. done: how many model calls each has behind it, of `steps`.
    """

    media: Media
    prompts: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    done: tuple[int, ...]
    steps: int


Event = Denoised | Differentiated | Scored | Estimated | Dropped | BatchHalved
