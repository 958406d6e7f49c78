"""How much of a sound is not silent: a guard against empty audio."""

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
class Silence:
    """The share of a sound that is not silent, 0 to 1: of windows whose level is above a threshold in any channel.

    The level of a window is the root mean square of its samples, in decibels of full scale: a square wave of full scale
    has 0 dB, a sine -3 dB. A last window that is not full is measured over the samples that it has.

    Blind spots: noise and hum count as sound; a pause that belongs to the sound counts as silence.

    threshold: level in decibels from which on a window is not silent. window: its length in seconds.
    least: a sound with a smaller share is rejected (its score is -inf); 0 rejects none.
    """

    threshold: float = -60.0
    window: float = 0.02
    least: float = 0.0

    name: ClassVar[str] = "silence"
    reads_prompts: ClassVar[bool] = False
    judges: ClassVar[tuple[str, ...]] = (AUDIO,)

    def __post_init__(self) -> None:
        if not -200 <= self.threshold <= 0:
            raise UsageError(f"threshold {self.threshold} dB is out of range: give -200 to 0.")
        if not 0 < self.window <= 60:
            raise UsageError(f"window {self.window} s is out of range: give more than 0, and 60 at most.")
        if not 0 <= self.least <= 1:
            raise UsageError(f"least {self.least} is no share: give 0 to 1.")

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n], float64."""
        loud = levels(media.waveforms, media.sampling_rate or 1, self.window).amax(1) >= self.threshold
        shares = loud.double().mean(1)
        return torch.where(shares < self.least, -math.inf, shares)


def levels(waveforms: Tensor, rate: int, window: float) -> Tensor:
    """Levels [n, channels, windows] in decibels of full scale, float64, of waveforms [n, channels, samples]."""
    size = max(round(rate * window), 1)
    samples = waveforms.detach().double()
    length = samples.shape[-1]
    padded = torch.nn.functional.pad(samples, (0, -length % size))
    padded = padded.reshape(*samples.shape[:2], -1, size)
    counts = torch.full((padded.shape[-2],), float(size), dtype=torch.float64, device=samples.device)
    counts[-1] -= -length % size
    power = padded.square().sum(-1) / counts
    decibels: Tensor = 10 * power.clamp(min=1e-30).log10()
    return decibels
