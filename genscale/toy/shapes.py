"""A small world of coloured shapes: captions, scenes and images.

The bundled toy models are trained on this world and `genscale.verifiers.shapes` scores it exactly, so that effects of
more compute can be measured on a laptop. Images are `SIZE`
x `SIZE` pixels; lengths are in pixels, x grows to the right, y grows downwards, and (0, 0) is the
outer corner of the upper left pixel.

Captions are those of `genscale.toy.captions`, whose names can be had from here, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genscale.toy.captions import (
    CATEGORIES,
    COLOURS,
    HARD,
    KINDS,
    NUMBERS,
    RELATIONS,
    Noun,
    Prompt,
    Requirement,
    held_out,
    is_absent,
    parse,
)

__all__ = [
    "CATEGORIES",
    "COLOURS",
    "GAP",
    "GROUND",
    "HARD",
    "KINDS",
    "MARGIN",
    "NUMBERS",
    "PROMPTS",
    "RADIUS",
    "RELATIONS",
    "SIZE",
    "Noun",
    "Prompt",
    "Requirement",
    "Scene",
    "Shape",
    "fresh_prompts",
    "held_out",
    "is_absent",
    "parse",
    "related",
    "render",
    "sample_requirement",
    "sample_scene",
    "signed_distance",
]

SIZE = 64
GROUND = (245, 245, 245)
RADIUS = (8.5, 13.0)  # of a lone shape or a pair; three and four shapes use the small end
GAP = 5.0  # least distance between two shapes' circles
MARGIN = 4.0  # a relation holds when the centres are at least this far apart along its axis


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


# ---------------------------------------------------------------------------------------- captions


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
    nouns = requirement.nouns or _others(requirement, rng)
    n, first = len(nouns), requirement.groups[0][1] if requirement.nouns else 0
    top = (RADIUS[1], RADIUS[1], 11.0, 10.0)[n - 1]
    while True:
        shapes: list[Shape] = []
        for colour, kind in nouns:
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
        if len(shapes) == n and _as_related(shapes[:first], shapes[first:], requirement.relation):
            return Scene(tuple(shapes))


def _others(requirement: Requirement, rng: np.random.Generator) -> tuple[Noun, ...]:
    """One or two nouns that a caption which only says what is absent allows."""
    allowed = [(c, k) for c in COLOURS for k in KINDS if not is_absent((c, k), requirement)]
    return tuple(allowed[rng.integers(len(allowed))] for _ in range(int(rng.integers(1, 3))))


def _as_related(first: Sequence[Shape], others: Sequence[Shape], relation: str | None) -> bool:
    """Whether each of `first` is in the relation to each of the others; clearly so where it is one to one."""
    holds = _clearly if len(first) == len(others) == 1 else related
    return relation is None or all(holds(a, b, relation) for a in first for b in others)


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
