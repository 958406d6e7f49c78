"""A small world of coloured shapes: captions, scenes and images.

The bundled toy models are trained on this world and `genscale.verifiers.shapes` scores it exactly, so that effects of
more compute can be measured on a laptop. Images are `SIZE`
x `SIZE` pixels; lengths are in pixels, x grows to the right, y grows downwards, and (0, 0) is the
outer corner of the upper left pixel.

Captions come in five categories, in the manner of GenEval:

    single     a red star
    two        a red star and a blue ring          two kinds, two colours
    colours    a red star and a blue star          one kind, told apart by colour alone
    counting   three green circles                 two to four
    position   a red star left of a blue ring      left of, right of, above, below

A sixth of the combinations of colour, kind and number or axis never occurs in training: see
`held_out`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genscale.errors import quoted

SIZE = 64
GROUND = (245, 245, 245)
KINDS = ("circle", "square", "triangle", "star", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 165, 70),
    "blue": (45, 85, 220),
    "yellow": (245, 200, 30),
    "purple": (150, 60, 180),
    "black": (35, 35, 40),
}
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {"two": 2, "three": 3, "four": 4}
CATEGORIES = ("single", "two", "colours", "counting", "position")

RADIUS = (8.5, 13.0)  # of a lone shape or a pair; three and four shapes use the small end
GAP = 5.0  # least distance between two shapes' circles
MARGIN = 4.0  # a relation holds when the centres are at least this far apart along its axis

Noun = tuple[str, str]
"""What a caption says about one object: (colour, kind)."""


@dataclass(frozen=True)
class Shape:
    """One drawn object. It lies within the circle of `radius` about (x, y), except for the corners of a square."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float

    @property
    def noun(self) -> Noun:
        return (self.colour, self.kind)


@dataclass(frozen=True)
class Scene:
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Requirement:
    """What an image must show: exactly these objects, the first in this relation to the second."""

    category: str
    nouns: tuple[Noun, ...]
    relation: str | None = None

    @property
    def count(self) -> int:
        return len(self.nouns)

    @property
    def text(self) -> str:
        """The caption, such that `parse(requirement.text) == requirement`."""
        (colour, kind), *rest = self.nouns
        if self.category == "counting":
            number = next(word for word, n in NUMBERS.items() if n == self.count)
            return f"{number} {colour} {kind}s"
        if not rest:
            return f"a {colour} {kind}"
        return f"a {colour} {kind} {self.relation or 'and'} a {rest[0][0]} {rest[0][1]}"


@dataclass(frozen=True)
class Prompt:
    """A caption of the toy world, and what an image must show to satisfy it."""

    text: str
    requirement: Requirement

    @property
    def category(self) -> str:
        return self.requirement.category


# ---------------------------------------------------------------------------------------- captions

_NOUN = rf"an?\s+({'|'.join(COLOURS)})\s+({'|'.join(KINDS)})"
_ONE = re.compile(_NOUN)
_PAIR = re.compile(
    rf"{_NOUN}\s+(and|{'|'.join(r.replace(' ', chr(92) + 's+') for r in RELATIONS)})\s+{_NOUN}"
)
_MANY = re.compile(rf"({'|'.join(NUMBERS)})\s+({'|'.join(COLOURS)})\s+({'|'.join(KINDS)})s")


def parse(text: str) -> Requirement:
    """The Requirement of the caption `text`. ValueError: it is not a caption of this world."""
    plain = " ".join(text.lower().replace(".", " ").replace(",", " ").split())
    if match := _ONE.fullmatch(plain):
        return Requirement("single", ((match[1], match[2]),))
    if match := _MANY.fullmatch(plain):
        return Requirement("counting", ((match[2], match[3]),) * NUMBERS[match[1]])
    if match := _PAIR.fullmatch(plain):
        nouns = ((match[1], match[2]), (match[4], match[5]))
        if match[3] != "and":
            return Requirement("position", nouns, match[3])
        if nouns[0] != nouns[1]:
            return Requirement("colours" if match[2] == match[5] else "two", nouns)
    raise ValueError(
        f"{quoted(text)} is no caption of the shapes world, which knows 'a red star', 'a red star and a blue ring',"
        f" 'three green circles' and 'a red star left of a blue ring', of the kinds {', '.join(KINDS)},"
        f" the colours {', '.join(COLOURS)}, the numbers {', '.join(NUMBERS)}"
        f" and the relations {', '.join(RELATIONS)}."
    )


def held_out(requirement: Requirement) -> bool:
    """Whether training leaves this combination out, as it does a sixth of those with several objects.

    With colours and kinds numbered as listed, a pair is left out where the sum of its colours,
    twice the sum of its kinds and the axis (0 for "and", 1 for left and right, 2 for above and
    below) is a multiple of six; a count where colour, twice the kind and the number add up so.
    Mirrored captions ("a left of b", "b right of a") fall together; every noun and every relation
    is seen.
    """
    if requirement.count == 1:
        return False
    nouns = requirement.nouns[:1] if requirement.category == "counting" else requirement.nouns
    total = sum(list(COLOURS).index(colour) + 2 * KINDS.index(kind) for colour, kind in nouns)
    if requirement.category == "counting":
        return (total + requirement.count) % 6 == 0
    axis = 0 if requirement.relation is None else 1 + RELATIONS.index(requirement.relation) // 2
    return (total + axis) % 6 == 0


def sample_requirement(rng: np.random.Generator, category: str) -> Requirement:
    """A requirement of `category`, uniform among all of its captions."""
    if category not in CATEGORIES:
        raise ValueError(f"Unknown category {category!r}: the shapes world has {', '.join(CATEGORIES)}.")
    colours, kinds = tuple(COLOURS), KINDS
    a, b = ((colours[rng.integers(len(colours))], kinds[rng.integers(len(kinds))]) for _ in range(2))
    if category == "single":
        return Requirement("single", (a,))
    if category == "counting":
        return Requirement("counting", (a,) * int(rng.integers(2, 5)))
    if category == "colours":
        b = (b[0], a[1])
    if a == b or (category == "two" and (a[0] == b[0] or a[1] == b[1])):
        return sample_requirement(rng, category)
    return Requirement(category, (a, b), str(RELATIONS[rng.integers(4)]) if category == "position" else None)


def fresh_prompts(seed: int, n: int, category: str | None = None) -> list[Prompt]:
    """`n` captions drawn with `seed`; the categories alternate unless one is given.

    They are distinct as long as there are enough.
    """
    rng = np.random.default_rng(seed)
    prompts: list[Prompt] = []
    seen: set[str] = set()
    for i in range(n):
        for _ in range(200):
            requirement = sample_requirement(rng, category or CATEGORIES[i % len(CATEGORIES)])
            if requirement.text not in seen:
                break
        seen.add(requirement.text)
        prompts.append(Prompt(requirement.text, requirement))
    return prompts


# ------------------------------------------------------------------------------------------ scenes


def related(a: Shape, b: Shape, relation: str) -> bool:
    """Whether `a` is left of (right of, above, below) `b`, by their centres and `MARGIN`."""
    along = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
    return along[relation] >= MARGIN


def sample_scene(wanted: Requirement | Prompt, rng: np.random.Generator) -> Scene:
    """A scene that satisfies `wanted`; sizes and positions are uniform among those that fit.

    Related objects lie further apart along the relation's axis than along the other.
    """
    requirement = wanted.requirement if isinstance(wanted, Prompt) else wanted
    n = requirement.count
    top = (RADIUS[1], RADIUS[1], 11.0, 10.0)[n - 1]
    while True:
        shapes: list[Shape] = []
        for colour, kind in requirement.nouns:
            for _ in range(40):
                u, v, w = rng.random(3)
                radius = RADIUS[0] + (top - RADIUS[0]) * u
                span = SIZE - 2 * (radius + 2)
                shape = Shape(kind, colour, radius + 2 + span * v, radius + 2 + span * w, radius)
                if all(
                    math.hypot(shape.x - s.x, shape.y - s.y) >= shape.radius + s.radius + GAP for s in shapes
                ):
                    shapes.append(shape)
                    break
        if len(shapes) == n and (
            requirement.relation is None or _clearly(shapes[0], shapes[1], requirement.relation)
        ):
            return Scene(tuple(shapes))


def _clearly(a: Shape, b: Shape, relation: str) -> bool:
    dx, dy = abs(a.x - b.x), abs(a.y - b.y)
    return related(a, b, relation) and (dx >= dy if relation in RELATIONS[:2] else dy >= dx)


# ----------------------------------------------------------------------------------------- drawing


def _polygon(kind: str) -> npt.NDArray[np.float32]:
    """Corners [k, 2] (x, y) of the unit triangle or star, which points upwards."""
    k = 3 if kind == "triangle" else 10
    angle = 2 * np.pi * np.arange(k) / k
    reach = np.ones(k) if kind == "triangle" else np.where(np.arange(k) % 2 == 0, 1.0, 0.46)
    corners = np.stack([reach * np.sin(angle), -reach * np.cos(angle)], axis=1)
    if kind == "triangle":
        corners[:, 1] -= 0.14  # towards the middle of its bounding box
    return (corners * 1.08).astype(np.float32)


def _polygon_distance(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], corners: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    squared = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        np.minimum(squared, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2, out=squared)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
    return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(squared)


def signed_distance(
    kind: str, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Distance (negative inside) from points to the outline of the `kind` of radius 1 at (0, 0)."""
    if kind in ("circle", "ring"):
        distance: npt.NDArray[np.float32] = np.hypot(x, y)
        outline = distance - 0.95 if kind == "circle" else np.abs(distance - 0.725) - 0.245
        return outline.astype(np.float32)
    if kind == "square":
        qx, qy = np.abs(x) - 0.8, np.abs(y) - 0.8
        return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0)
    return _polygon_distance(x, y, _polygon(kind))


def render(scenes: Sequence[Scene]) -> npt.NDArray[np.uint8]:
    """Antialiased images [n, SIZE, SIZE, 3], uint8; later shapes are drawn over earlier ones."""
    pad, window = 20, 2 * 16
    canvas = np.empty((len(scenes), SIZE + 2 * pad, SIZE + 2 * pad, 3), np.float32)
    canvas[:] = GROUND
    drawn = [(i, shape) for i, scene in enumerate(scenes) for shape in scene.shapes]
    cover: dict[int, npt.NDArray[np.float32]] = {}
    corner = {j: (int(s.x) - window // 2, int(s.y) - window // 2) for j, (_, s) in enumerate(drawn)}
    grid = np.arange(window, dtype=np.float32) + 0.5
    for kind in KINDS:
        members = [j for j, (_, s) in enumerate(drawn) if s.kind == kind]
        for start in range(0, len(members), 64):
            part = members[start : start + 64]
            radius = np.array([drawn[j][1].radius for j in part], np.float32)[:, None, None]
            left = np.array([corner[j][0] - drawn[j][1].x for j in part], np.float32)[:, None, None]
            upper = np.array([corner[j][1] - drawn[j][1].y for j in part], np.float32)[:, None, None]
            x, y = np.broadcast_arrays(
                (left + grid[None, None, :]) / radius, (upper + grid[None, :, None]) / radius
            )
            cover.update(zip(part, np.clip(0.5 - signed_distance(kind, x, y) * radius, 0, 1), strict=True))
    for j, (i, shape) in enumerate(drawn):
        x0, y0 = (max(0, min(SIZE + 2 * pad - window, c + pad)) for c in corner[j])
        patch = canvas[i, y0 : y0 + window, x0 : x0 + window]
        patch += cover[j][..., None] * (np.array(COLOURS[shape.colour], np.float32) - patch)
    return np.rint(canvas[:, pad:-pad, pad:-pad]).astype(np.uint8)


PROMPTS: tuple[Prompt, ...] = tuple(
    prompt for i, category in enumerate(CATEGORIES) for prompt in fresh_prompts(2026 + i, 30, category)
)
"""The benchmark: 150 captions, 30 of each category in the order of `CATEGORIES`, some `held_out`."""
