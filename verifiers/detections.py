"""Objects that a detector found, and the rules by which they count, overlap and lie beside each other.

The rules are those of GenEval (Ghosh et al. 2023, arXiv 2310.11513, section 3): of each noun the objects above a
threshold, the surest first, at most MOST; one lies left of another if the line between their centres, shortened by a
margin for their sizes, points more to the left than anywhere else. Boxes are in pixels, since a relation depends on
the image's aspect ratio. Nothing here knows a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge in pixels, y downwards."""

RELATIONS = ("left of", "right of", "above", "below")
MOST = 16
"""Objects of one noun that are looked at (GenEval's max_objects)."""
MARGIN = 0.1
"""Share of the two sizes by which an offset is shortened (GenEval's position_threshold)."""
SLOPE = 0.5
"""The least component of the unit vector between two centres that makes a relation (GenEval's evaluate_images.py)."""
_LITTLE = 1e-3  # pixels; an offset below it is none


@dataclass(frozen=True)
class Detection:
    """An object: what it was taken for, how surely, in [0, 1], and where.

    colours: how much it looks like each colour, a distribution; empty where nobody looked.
    """

    noun: str
    score: float
    box: Box
    colours: Mapping[str, float] | None = None

    @property
    def colour(self) -> str | None:
        """The likeliest colour; of equals the first."""
        return max(self.colours, key=self.colours.__getitem__) if self.colours else None


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, in [0, 1]; 0 of boxes without an area."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(tall, 0.0)
    whole = _area(a) + _area(b) - both
    return both / whole if whole > 0 else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def kept(found: Sequence[Detection], max_overlap: float = 1.0) -> dict[str, list[Detection]]:
    """The objects by noun, the surest first, at most MOST of each.

    max_overlap: of two of one noun that overlap so much or more, the less sure one is dropped; 1 drops none, as GenEval
    does.
    """
    by_noun: dict[str, list[Detection]] = {}
    for one in sorted(found, key=lambda d: -d.score):
        by_noun.setdefault(one.noun, []).append(one)
    return {noun: _apart(objects[:MOST], max_overlap) for noun, objects in by_noun.items()}


def _apart(objects: Sequence[Detection], max_overlap: float) -> list[Detection]:
    found: list[Detection] = []
    for one in objects:
        if max_overlap >= 1 or all(overlap(one.box, other.box) < max_overlap for other in found):
            found.append(one)
    return found


def directions(a: Box, b: Box, margin: float = MARGIN) -> dict[str, float]:
    """How clearly `a` lies in each direction of `b`: a number in [-1, 1], above SLOPE where the relation holds.

    The offset of the centres, in each direction shortened by `margin` times the sum of the two sizes, over the length
    of the whole offset.
    """
    across, down = (((a[k] + a[k + 2]) - (b[k] + b[k + 2])) / 2 for k in (0, 1))
    wide, tall = ((a[k + 2] - a[k]) + (b[k + 2] - b[k]) for k in (0, 1))
    x, y = _shortened(across, margin * wide), _shortened(down, margin * tall)
    if abs(x) < _LITTLE and abs(y) < _LITTLE:
        return dict.fromkeys(RELATIONS, 0.0)
    length = math.hypot(across, down)
    return {"left of": -x / length, "right of": x / length, "above": -y / length, "below": y / length}


def _shortened(offset: float, by: float) -> float:
    return math.copysign(max(abs(offset) - by, 0.0), offset)


def relations(a: Box, b: Box, margin: float = MARGIN) -> set[str]:
    """The relations of `a` to `b`: none, one, or two where it lies in a corner."""
    return {name for name, much in directions(a, b, margin).items() if much > SLOPE}
