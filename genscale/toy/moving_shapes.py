"""A small world of moving shapes: captions, scenes and videos.

The bundled toy video model is trained on this world and `genscale.verifiers.moving_shapes` judges it exactly. Videos
are `FRAMES` frames of `SIZE` x `SIZE` pixels; colours and the ground are those of `genscale.toy.shapes`. Lengths are
in pixels, x grows to the right, y grows downwards; speeds are in pixels a frame.

Captions come in two categories:

    one    a red circle moving left                                   24 of them
    two    a red circle moving left and a blue circle moving up       two colours; 480 of them
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genscale.errors import quoted
from genscale.toy.shapes import COLOURS, GROUND, Noun, Shape, signed_distance

SIZE = 32
FRAMES = 5
KINDS = ("circle",)  # at this size an autoencoder trained in minutes does not distinguish other kinds
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CATEGORIES = ("one", "two")

RADIUS = (5.0, 6.5)  # one of two has at most CROWDED
CROWDED = 5.5
SPEED = (2.0, 3.0)
GAP = 2.0  # least distance between the circles of two shapes, in every frame
EDGE = 1.0  # least distance from the circle to the edge of the image
_WINDOW = 18  # pixels of the square in which one shape is drawn


@dataclass(frozen=True)
class Motion:
    """What a caption says about one object."""

    colour: str
    kind: str
    way: str

    @property
    def noun(self) -> Noun:
        return (self.colour, self.kind)

    @property
    def text(self) -> str:
        return f"a {self.colour} {self.kind} moving {self.way}"


@dataclass(frozen=True)
class Prompt:
    """A caption: exactly these objects with these motions. `parse(prompt.text) == prompt`."""

    motions: tuple[Motion, ...]

    @property
    def text(self) -> str:
        return " and ".join(motion.text for motion in self.motions)

    @property
    def category(self) -> str:
        return CATEGORIES[len(self.motions) - 1]


@dataclass(frozen=True)
class Mover:
    """A moving object. path: [FRAMES, 2], its centre (x, y) in every frame, as nested tuples."""

    kind: str
    colour: str
    radius: float
    path: tuple[tuple[float, float], ...]

    def at(self, frame: int) -> Shape:
        return Shape(self.kind, self.colour, *self.path[frame], self.radius)


Scene = tuple[Mover, ...]


# ---------------------------------------------------------------------------------------- captions

_ONE = re.compile(rf"an? ({'|'.join(COLOURS)}) ({'|'.join(KINDS)}) moving ({'|'.join(DIRECTIONS)})")


def parse(text: str) -> Prompt:
    """The Prompt of the caption `text`. ValueError: it is not a caption of this world."""
    plain = " ".join(text.lower().replace(".", " ").replace(",", " ").split())
    matches = [_ONE.fullmatch(part) for part in plain.split(" and ")]
    motions = tuple(Motion(m[1], m[2], m[3]) for m in matches if m is not None)
    if len(motions) == len(matches) <= 2 and len({m.colour for m in motions}) == len(motions):
        return Prompt(motions)
    raise ValueError(
        f"{quoted(text)} is no caption of the world of moving shapes, which knows 'a red circle moving left' and"
        " 'a red circle moving left and a blue circle moving up' (two colours),"
        f" of the kinds {', '.join(KINDS)}, the colours {', '.join(COLOURS)} and the directions"
        f" {', '.join(DIRECTIONS)}."
    )


def sample_prompt(rng: np.random.Generator, category: str) -> Prompt:
    """A caption of `category`, uniform among all of its captions."""
    if category not in CATEGORIES:
        raise ValueError(f"Unknown category {category!r}: moving shapes have {', '.join(CATEGORIES)}.")
    while True:
        motions = tuple(_sample_motion(rng) for _ in range(1 + CATEGORIES.index(category)))
        if len({m.colour for m in motions}) == len(motions):
            return Prompt(motions)


def _sample_motion(rng: np.random.Generator) -> Motion:
    colour, kind, way = (
        options[int(rng.integers(len(options)))] for options in (tuple(COLOURS), KINDS, tuple(DIRECTIONS))
    )
    return Motion(colour, kind, way)


def fresh_prompts(seed: int, n: int, category: str | None = None) -> list[Prompt]:
    """`n` distinct captions drawn with `seed`; the categories alternate unless one is given."""
    rng = np.random.default_rng(seed)
    prompts: dict[Prompt, None] = {}
    while len(prompts) < n:
        name = category or CATEGORIES[len(prompts) % len(CATEGORIES)]
        fresh = next((p for _ in range(500) if (p := sample_prompt(rng, name)) not in prompts), None)
        if fresh is None:
            raise ValueError(f"The category {name!r} has not as many as {n} captions: ask for fewer.")
        prompts[fresh] = None
    return list(prompts)


# ------------------------------------------------------------------------------------------ scenes


def sample_scene(prompt: Prompt, rng: np.random.Generator) -> Scene:
    """A scene that satisfies `prompt`; sizes, speeds and positions are uniform among those that fit."""
    while True:
        movers = tuple(_sample_mover(m, len(prompt.motions) > 1, rng) for m in prompt.motions)
        if len(movers) == 1 or _apart(*movers):
            return movers


def _sample_mover(motion: Motion, crowded: bool, rng: np.random.Generator) -> Mover:
    radius = float(rng.uniform(RADIUS[0], CROWDED if crowded else RADIUS[1]))
    speed = float(rng.uniform(*SPEED))
    offsets = np.arange(FRAMES)[:, None] * speed * np.array(DIRECTIONS[motion.way])
    lowest = radius + EDGE - offsets.min(0)
    highest = SIZE - radius - EDGE - offsets.max(0)
    path = rng.uniform(lowest, highest) + offsets
    return Mover(motion.kind, motion.colour, radius, tuple((float(x), float(y)) for x, y in path))


def _apart(a: Mover, b: Mover) -> bool:
    between = np.hypot(*(np.array(a.path) - np.array(b.path)).T)
    return bool(between.min() >= a.radius + b.radius + GAP)


# ----------------------------------------------------------------------------------------- drawing


def render(scenes: Sequence[Scene]) -> npt.NDArray[np.uint8]:
    """Antialiased videos [n, FRAMES, SIZE, SIZE, 3], uint8; later movers are drawn over earlier ones.

    Draws every kind that `genscale.toy.shapes` knows.
    """
    side = SIZE + 2 * _WINDOW
    canvas = np.empty((len(scenes) * FRAMES, side, side, 3), np.float32)
    canvas[:] = GROUND
    for layer in range(max((len(scene) for scene in scenes), default=0)):
        for kind in sorted({scene[layer].kind for scene in scenes if len(scene) > layer}):
            members = [i for i, s in enumerate(scenes) if len(s) > layer and s[layer].kind == kind]
            for start in range(0, len(members), 32):
                part = members[start : start + 32]
                _draw(canvas, kind, part, [scenes[i][layer] for i in part])
    inner = canvas[:, _WINDOW:-_WINDOW, _WINDOW:-_WINDOW]
    return np.rint(inner).astype(np.uint8).reshape(len(scenes), FRAMES, SIZE, SIZE, 3)


def _draw(canvas: npt.NDArray[np.float32], kind: str, videos: list[int], movers: list[Mover]) -> None:
    """Draw movers of one kind into the frames of their videos. videos: index of each mover's video."""
    centre = np.array([m.path for m in movers], np.float32).reshape(-1, 2)
    radius = np.repeat(np.array([m.radius for m in movers], np.float32), FRAMES)[:, None, None]
    colour = np.repeat(np.array([COLOURS[m.colour] for m in movers], np.float32), FRAMES, axis=0)
    corner = np.floor(centre).astype(int) - _WINDOW // 2
    grid = np.arange(_WINDOW)
    xs, ys = corner[:, :1] + grid, corner[:, 1:] + grid  # [frames, window]
    x, y = np.broadcast_arrays(
        (xs + np.float32(0.5) - centre[:, :1])[:, None, :] / radius,
        (ys + np.float32(0.5) - centre[:, 1:])[:, :, None] / radius,
    )
    cover = np.clip(0.5 - signed_distance(kind, x, y) * radius, 0, 1)[..., None]
    frames = (np.array(videos)[:, None] * FRAMES + np.arange(FRAMES)).reshape(-1, 1, 1)
    limit = canvas.shape[1] - 1
    rows, columns = np.clip(ys + _WINDOW, 0, limit)[:, :, None], np.clip(xs + _WINDOW, 0, limit)[:, None, :]
    before = canvas[frames, rows, columns]
    canvas[frames, rows, columns] = before + cover * (colour[:, None, None] - before)


PROMPTS: tuple[Prompt, ...] = (*fresh_prompts(4026, 24, "one"), *fresh_prompts(4027, 96, "two"))
"""The benchmark: all 24 captions of one circle, and 96 of two."""
