"""How much of a sound is cut off at full scale: a guard against distortion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.media_items import AUDIO


@dataclass(frozen=True)
class Clipping:
    """1 minus the share of samples that reach full scale, 0 to 1, over all channels: 1 where nothing is cut off.

    Samples beyond full scale count, since a player or a 16-bit file cuts them off, and samples at it, since pipelines
    that cut off themselves leave them there.

    Blind spots: distortion below full scale; a sound that was cut off and made quieter afterwards; a single full sample
    counts even where nothing was lost.

    level: what counts as full scale, of 1. most: a sound with a larger share of such samples is rejected (its score is
    -inf); 1 rejects none.
    """

    level: float = 0.999
    most: float = 1.0

    name: ClassVar[str] = "clipping"
    reads_prompts: ClassVar[bool] = False
    judges: ClassVar[tuple[str, ...]] = (AUDIO,)

    def __post_init__(self) -> None:
        if not 0 < self.level <= 1:
            raise UsageError(f"level {self.level} is out of range: give more than 0, and 1 at most.")
        if not 0 <= self.most <= 1:
            raise UsageError(f"most {self.most} is no share: give 0 to 1.")

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n], float64."""
        full = media.waveforms.detach().abs().double() >= self.level
        shares = full.flatten(1).double().mean(1)
        return torch.where(shares > self.most, -math.inf, 1 - shares)
