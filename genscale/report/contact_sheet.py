"""The contact sheet: for every prompt the base image beside the best and the runners-up, with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from genscale.report import film_strip, item_pictures
from genscale.report.lettering import Lettering

if TYPE_CHECKING:
    from genscale.media import Item

TILE = 256
MARGIN, GAP = 28, 18
PROMPT, LINE, MOST = 34, 26, 3  # height of a prompt on one line, of each further line, and lines at most
GROUND, INK, FAINT, FRAME = (255, 255, 255), (28, 30, 34), (118, 122, 130), (214, 217, 222)
ACCENT = (22, 128, 74)
PROMPTS, LABELS, NOTES, SMALL = (Lettering(size) for size in (20, 18, 16, 15))


@dataclass(frozen=True)
class Tile:
    """An image with a label below it, a note at the right end of the label's line, and lines of scores.

    strip: the image is wide, as frames of a video side by side and the picture of a sound are; it takes a line of its
    own and is not resized.
    """

    image: Image.Image
    label: str
    scores: tuple[str, ...] = ()
    note: str = ""
    winner: bool = False
    strip: bool = False

    @staticmethod
    def of(item: Item, *more: Any, **named: Any) -> Tile:
        """A tile of an image, of the frames of a video, or of the picture of another item."""
        if isinstance(item, list):
            return Tile(film_strip.strip(item), *more, **{**named, "strip": True})
        return Tile(item_pictures.picture(item), *more, **{**named, "strip": item_pictures.is_wide(item)})


@dataclass(frozen=True)
class SheetRow:
    """A prompt and its tiles: images side by side, videos below each other."""

    prompt: str
    tiles: tuple[Tile, ...]

    @property
    def lines(self) -> list[tuple[Tile, ...]]:
        return [(tile,) for tile in self.tiles] if any(tile.strip for tile in self.tiles) else [self.tiles]


def sheet(rows: Sequence[SheetRow], title: str) -> Image.Image:
    """All rows below each other under one title line."""
    lines = [(line, row.prompt if i == 0 else None) for row in rows for i, line in enumerate(row.lines)]
    columns = max(len(line) for line, _ in lines)
    shown = [[tile.image if tile.strip else scaled(tile.image) for tile in line] for line, _ in lines]
    cell = max(image.width for images in shown for image in images)
    cell = max(cell, 200)
    width = 2 * MARGIN + columns * cell + (columns - 1) * GAP
    prompts = [[] if p is None else PROMPTS.wrapped(p, width - 2 * MARGIN, MOST) or [""] for _, p in lines]
    above = [PROMPT + LINE * (len(prompt) - 1) if prompt else 0 for prompt in prompts]
    heights = [a + _height(line, images) for a, (line, _), images in zip(above, lines, shown, strict=True)]
    canvas = Image.new("RGB", (width, MARGIN + 30 + sum(heights) + MARGIN // 2), GROUND)
    pen = ImageDraw.Draw(canvas)
    SMALL.draw(pen, (MARGIN, MARGIN - 8), SMALL.fitted(title, width - 2 * MARGIN), FAINT)
    top = MARGIN + 30
    for (line, _), prompt, high, images, height in zip(lines, prompts, above, shown, heights, strict=True):
        for n, words in enumerate(prompt):
            PROMPTS.draw(pen, (MARGIN, top + LINE * n), words, INK)
        _draw_line(canvas, pen, line, images, cell, top + high)
        top += height
    return canvas


def _height(line: Sequence[Tile], images: Sequence[Image.Image]) -> int:
    """Of images with their captions."""
    lines = max(len(tile.scores) for tile in line)
    return max(image.height for image in images) + 10 + 24 + 20 * lines + 26


def _draw_line(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    line: Sequence[Tile],
    images: Sequence[Image.Image],
    cell: int,
    top: int,
) -> None:
    tallest = max(image.height for image in images)
    for i, (tile, image) in enumerate(zip(line, images, strict=True)):
        left = MARGIN + i * (cell + GAP)
        x, y = left + (cell - image.width) // 2, top + (tallest - image.height) // 2
        thick = 4 if tile.winner else 1
        box = (x - thick, y - thick, x + image.width + thick - 1, y + image.height + thick - 1)
        pen.rectangle(box, outline=ACCENT if tile.winner else FRAME, width=thick)
        canvas.paste(image, (x, y))
        _caption(pen, tile, left, top + tallest + 10, cell)


def _caption(pen: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, cell: int) -> None:
    colour = ACCENT if tile.winner else INK
    LABELS.draw(pen, (left, top), tile.label, colour)
    if tile.note:
        NOTES.draw(pen, (left + cell - round(NOTES.width(tile.note)), top + 2), tile.note, colour)
    for i, line in enumerate(tile.scores):
        SMALL.draw(pen, (left, top + 25 + 20 * i), SMALL.fitted(line, cell), FAINT)


def scaled(image: Image.Image, tile: int = TILE) -> Image.Image:
    """Small images are enlarged by a whole factor without smoothing (64 pixels: x4), large ones reduced."""
    image = image.convert("RGB")
    longest = max(image.size)
    factor = tile // longest
    if factor > 1:
        size = (image.width * factor, image.height * factor)
        return image.resize(size, Image.Resampling.NEAREST)
    if longest > tile * 3 // 2:
        share = tile * 3 / 2 / longest
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        return image.resize(size, Image.Resampling.LANCZOS)
    return image
