"""Drawn scenes for the detector of attributes: right and deformed objects, and what each cell should answer.

Generated images go wrong in their own ways, so a part of the objects is between two kinds or two colours, bent, cut,
pale, tiny, or touches its neighbour. Those that are clearly so are labelled as of no kind, of no colour, or not there;
the doubtful ones are not labelled at all (`IGNORED`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from genscale.toy.shapes import COLOURS, GROUND, KINDS, SIZE, signed_distance
from genscale.verifiers.attribute_detector import CELL, CELLS

IGNORED = -100
OTHER_KIND, MIXED = len(KINDS), len(COLOURS)
NEAR, FAR = (
    3.7,
    7.0,
)  # pixels from a centre: cells up to NEAR answer for the object, from FAR on for the ground
PALETTE = np.array(list(COLOURS.values()), np.float32)
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5


@dataclass
class Drawn:
    """One object: centre, radius, its cover [h, w] in [0, 1] and paint [h, w, 3], and labels (there: 1, 0 or IGNORED).

    where: the rows and columns of the image that cover and paint are for.
    """

    x: float
    y: float
    radius: float
    where: tuple[slice, slice]
    cover: np.ndarray
    paint: np.ndarray
    there: int
    kind: int
    colour: int


def label(amount: float, little: float, much: float, name: int, other: int) -> int:
    """`name` where the amount of a deformation is little, `other` where it is much, else IGNORED."""
    return name if amount < little else other if amount > much else IGNORED


def draw_object(rng: np.random.Generator, x: float, y: float, radius: float, noun: tuple[int, int]) -> Drawn:
    """An object with the (colour, kind) of `noun`, deformed in at most one way."""
    colour, kind = noun
    way = rng.choice(["none", "kind", "bend", "cut", "colour", "pale"], p=[0.6, 0.1, 0.09, 0.06, 0.08, 0.07])
    amount, angle = float(rng.random()), float(rng.uniform(0, 2 * np.pi))
    bend = 0.35 * amount if way == "bend" else 0.06 * amount
    phase, waves = rng.uniform(0, 6.3, 2), rng.uniform(1, 4, 2)
    reach = int(1.6 * radius) + 3
    where = tuple(slice(max(0, int(z) - reach), int(z) + reach) for z in (y, x))
    xs, ys = _X[where], _Y[where]
    u, v = (xs - x) / radius, (ys - y) / radius
    u, v = u + bend * np.sin(waves[0] * v + phase[0]), v + bend * np.sin(waves[1] * u + phase[1])
    distance = signed_distance(KINDS[kind], u.astype(np.float32), v.astype(np.float32))
    kind_label = kind
    if way == "kind":
        other = signed_distance(
            KINDS[(kind + int(rng.integers(1, 5))) % 5], u.astype(np.float32), v.astype(np.float32)
        )
        distance = (1 - amount / 2) * distance + amount / 2 * other
        kind_label = label(amount / 2, 0.22, 0.36, kind, OTHER_KIND)
    if way == "bend":
        kind_label = label(bend, 0.15, 0.27, kind, OTHER_KIND)
    cover = np.clip(0.5 - distance * radius, 0, 1)
    side = np.cos(angle) * (xs - x) + np.sin(angle) * (ys - y)
    inside = cover > 0.5
    if way == "cut" and inside.any():
        cover = cover * np.clip(side - np.quantile(side[inside], 0.5 * amount) + 0.5, 0, 1)
        kind_label = label(0.5 * amount, 0.12, 0.3, kind, OTHER_KIND)
    paint = np.broadcast_to(PALETTE[colour] + rng.normal(0, 9, 3).astype(np.float32), (*xs.shape, 3))
    colour_label = colour
    if way == "colour" and inside.any():
        second = PALETTE[(colour + int(rng.integers(1, 6))) % 6]
        soft = rng.uniform(0.5, 4)
        share = np.clip((np.quantile(side[inside], 0.5 * amount) - side) / soft + 0.5, 0, 1)[..., None]
        paint = paint * (1 - share) + second * share
        colour_label = label(0.5 * amount, 0.32, 0.43, colour, MIXED)
    there = 1
    if way == "pale":
        strength = 0.1 + 0.8 * amount
        cover = cover * strength
        there = label(strength, 0.25, 0.42, 0, 1)
        colour_label = label(strength, 0.75, 2, IGNORED, colour) if strength < 0.75 else colour
    if radius < 6.5:
        kind_label = IGNORED
        there = label(radius, 1.9, 3.2, 0, 1) if there == 1 else there
        colour_label = IGNORED if radius < 3.5 else colour_label
    return Drawn(x, y, radius, where, cover.astype(np.float32), paint, there, kind_label, colour_label)


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[Drawn]]:
    """An image [SIZE, SIZE, 3], 0 to 255, and its objects."""
    n = int(rng.choice(6, p=[0.03, 0.2, 0.34, 0.23, 0.17, 0.03]))
    alike, base = rng.random() < 0.35, (int(rng.integers(6)), int(rng.integers(5)))
    objects: list[Drawn] = []
    for i in range(n):
        noun = base if alike and rng.random() < 0.85 else (int(rng.integers(6)), int(rng.integers(5)))
        radius = (
            float(rng.uniform(7.0, 14.0 if n < 3 else 11.5))
            if rng.random() < 0.95
            else float(rng.uniform(1.2, 7))
        )
        for _ in range(30):
            x, y = (float(z) for z in rng.uniform(radius * 0.8, SIZE - radius * 0.8, 2))
            touching = i > 0 and rng.random() < 0.02
            gap = -2.0 if touching else float(rng.uniform(1, 6))
            if all(
                np.hypot(x - o.x, y - o.y) >= (radius + o.radius) * (0.75 if touching else 1) + gap
                for o in objects
            ):
                objects.append(draw_object(rng, x, y, radius, noun))
                break
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = GROUND
    for o in objects:
        image[o.where] += o.cover[..., None] * (o.paint - image[o.where])
    _fuse(objects)
    return image, objects


def _fuse(objects: list[Drawn]) -> None:
    """Objects whose outlines touch are of no kind."""
    for i, a in enumerate(objects):
        for b in objects[:i]:
            if np.hypot(a.x - b.x, a.y - b.y) < 1.5 * (a.radius + b.radius) + 3:
                common = int((ndimage.binary_dilation(_solid(a)) & _solid(b)).sum())
                if common:
                    a.kind = b.kind = OTHER_KIND if common > 2 else IGNORED


def _solid(o: Drawn) -> np.ndarray:
    whole = np.zeros((SIZE, SIZE), bool)
    whole[o.where] = o.cover > 0.35
    return whole


def targets(objects: list[Drawn]) -> np.ndarray:
    """Labels of the cells [5, CELLS, CELLS]: there (1, 0, IGNORED), kind, colour, offset x and y in cells."""
    found = np.full((5, CELLS, CELLS), IGNORED, np.float32)
    found[0] = 0
    rows, columns = np.mgrid[0:CELLS, 0:CELLS]
    x, y = (columns + 0.5) * CELL, (rows + 0.5) * CELL
    for o in objects:
        distance = np.hypot(x - o.x, y - o.y)
        if o.there != 0:
            found[0][(distance < FAR) & (found[0] == 0)] = IGNORED
        if o.there == 1:
            near = distance < NEAR
            found[0][near] = 1
            found[1][near], found[2][near] = o.kind, o.colour
            found[3][near] = ((o.x - x) / CELL)[near]
            found[4][near] = ((o.y - y) / CELL)[near]
    return found


def draw(n: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """`n` images [n, 3, SIZE, SIZE], uint8, and their targets [n, 5, CELLS, CELLS]."""
    images, labels = [], []
    for _ in range(n):
        image, objects = draw_scene(rng)
        images.append(np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(2, 0, 1))
        labels.append(targets(objects))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))
