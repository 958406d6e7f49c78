"""A picture of an item of any kind, for contact sheets and as the still beside its other files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from genscale.media_items import DEPTH, Audio, Map, Mesh, Vector
from genscale.report import audio_picture
from genscale.report.lettering import Lettering

if TYPE_CHECKING:
    from genscale.media import Item

SIDE = 256
INK, GROUND = (28, 30, 34), (255, 255, 255)
WORDS = Lettering(18)
MOST_LINES, MOST_FACES = 24, 60_000


def picture(item: Item) -> Image.Image:
    """The image itself; of a video its first frame; of other kinds a drawing."""
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, list):
        return item[0]
    if isinstance(item, Audio):
        return audio_picture.picture(item)
    if isinstance(item, Map):
        return _map(item)
    if isinstance(item, Vector):
        return _vector(item.values)
    return _mesh(item) if isinstance(item, Mesh) else _text(item)


def is_wide(item: Item) -> bool:
    """Whether its picture takes a line of a contact sheet of its own, and is not resized."""
    return isinstance(item, Audio | str)


def _map(item: Map) -> Image.Image:
    """Depth in grey, near is dark, stretched to all greys where it is not in [0, 1]; normals as colours."""
    values = np.nan_to_num(item.values.astype(np.float64))
    if item.kind == DEPTH:
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            values = (values - low) / max(high - low, 1e-12)
        return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")
    return Image.fromarray(((values + 1) / 2 * 255).clip(0, 255).round().astype(np.uint8))


def _vector(values: np.ndarray) -> Image.Image:
    """All numbers as a grid of squares, blue below 0 and red above, at 2.5 standard deviations."""
    from matplotlib import colormaps  # takes long to import

    flat = np.nan_to_num(values.astype(np.float64)).ravel()
    columns = math.ceil(math.sqrt(len(flat)))
    grid = np.zeros(columns * math.ceil(len(flat) / columns))
    grid[: len(flat)] = flat / (2.5 * max(float(flat.std()), 1e-12))
    shown = colormaps["RdBu_r"]((grid.clip(-1, 1) + 1) / 2)[:, :3].reshape(-1, columns, 3)
    image = Image.fromarray((shown * 255).round().astype(np.uint8))
    factor = max(SIDE // columns, 1)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _text(text: str) -> Image.Image:
    lines = WORDS.wrapped(text, audio_picture.WIDTH - 24, MOST_LINES) or [""]
    image = Image.new("RGB", (audio_picture.WIDTH, 24 + 26 * len(lines)), GROUND)
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        WORDS.draw(pen, (12, 12 + 26 * i), line, INK)
    return image


def _mesh(mesh: Mesh) -> Image.Image:
    """The mesh from the front, a little from above, lit from the viewer; far triangles are drawn first."""
    image = Image.new("RGB", (SIDE, SIDE), GROUND)
    if not len(mesh.vertices) or not len(mesh.faces):
        return image
    turn, tilt = math.radians(30), math.radians(20)
    about_y = np.array([[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)], [0, math.sin(tilt), math.cos(tilt)]])
    points = np.nan_to_num(mesh.vertices.astype(np.float64)) @ (about_x @ about_y).T
    points -= (points.min(0) + points.max(0)) / 2
    points *= 0.9 * SIDE / max(float(np.ptp(points[:, :2], axis=0).max()), 1e-12)
    faces = mesh.faces[:: -(-len(mesh.faces) // MOST_FACES)]
    corners = points[faces]  # [f, 3, 3]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    light = np.abs(normals[:, 2]) / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    own = np.full((len(faces), 3), 0.7) if mesh.colours is None else mesh.colours[faces].mean(1)
    colours = (own * (0.35 + 0.65 * light[:, None]) * 255).clip(0, 255).astype(int)
    pen = ImageDraw.Draw(image)
    for i in np.argsort(corners[:, :, 2].mean(1)):
        flat = [(SIDE / 2 + x, SIDE / 2 - y) for x, y in corners[i, :, :2]]
        pen.polygon(flat, fill=tuple(colours[i]))
    return image
