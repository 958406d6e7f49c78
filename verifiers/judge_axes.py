"""The axes on which a judge scores an image: their names, weights and definitions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from genscale.errors import UsageError
from genscale.plugins.limits import shown
from genscale.verifiers.judge_answers import REASON

MEANING = {
    "alignment": "is everything there that the prompt names, in the right number, colour, size and place, and nothing "
    "that contradicts it",
    "quality": "is it free of defects: wrong anatomy, broken or melting objects, unreadable text, noise, blur, seams",
    "aesthetics": "is it pleasing to look at: composition, light, colour, detail",
    "realism": "could it be a photograph: light, materials, scale and perspective",
    "originality": "is it more than the most obvious picture of the prompt",
    "coherence": "do all its parts belong to one scene and one style",
}


@dataclass(frozen=True)
class Axis:
    """weight: its share of the total, before all are divided by their sum."""

    name: str
    weight: float = 1.0

    @property
    def meaning(self) -> str:
        return MEANING.get(self.name, f"how good is its {self.name.replace('_', ' ')}")


def axes_of(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Axes written as "name" or "name:weight". UsageError: one cannot be read, or is there twice."""
    found = tuple(map(_axis, texts))
    names = [axis.name for axis in found]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"axes={shown(','.join(texts))} must be one or more different names.")
    return found


def total(numbers: dict[str, float], axes: Sequence[Axis], axis: str | None = None) -> float:
    """The weighted mean of the axes, or the number of one of them."""
    if axis is not None:
        return numbers[axis]
    weights = sum(a.weight for a in axes)
    return sum(a.weight * numbers[a.name] for a in axes) / weights


def _axis(text: str) -> Axis:
    name, colon, weight = text.strip().partition(":")
    try:
        value = float(weight) if colon else 1.0
    except ValueError:
        value = math.nan
    if not re.fullmatch(r"[a-z][a-z0-9_ -]*", name) or name == REASON or not 0 < value < math.inf:
        raise UsageError(
            f"axis {shown(text)} cannot be read: write a name in small letters, or name:weight with a weight above 0."
        )
    return Axis(name, value)
