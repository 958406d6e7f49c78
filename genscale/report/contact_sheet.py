"""The contact sheet: for every prompt the base image beside the best and the runners-up, with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from genscale.report import film_strip

if TYPE_CHECKING:
    from genscale.media import Item

TILE = 256
MARGIN, GAP = 28, 18
PROMPT = 34  # height of the line with the prompt
GROUND, INK, FAINT, FRAME = (255, 255, 255), (28, 30, 34), (118, 122, 130), (214, 217, 222)
ACCENT = (22, 128, 74)


@dataclass(frozen=True)
class Tile:
    """An image with a label, a note at the right end of it, and lines of scores below.

    strip: the image shows frames of a video side by side; it takes a line of its own and is not resized.
    """

    image: Image.Image
    label: str
    scores: tuple[str, ...] = ()
    note: str = ""
    winner: bool = False
    strip: bool = False

    @staticmethod
    def of(item: Item, *more: Any, **named: Any) -> Tile:
        """A tile of an image, or of the frames of a video."""
        if isinstance(item, list):
            return Tile(film_strip.strip(item), *more, **{**named, "strip": True})
        return Tile(item, *more, **named)


@dataclass(frozen=True)
class SheetRow:
    """A prompt and its tiles: images side by side, videos below each other."""

    prompt: str
    tiles: tuple[Tile, ...]

    @property
    def lines(self) -> list[tuple[Tile, ...]]:
        return [(tile,) for tile in self.tiles] if any(tile.strip for tile in self.tiles) else [self.tiles]


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def sheet(rows: Sequence[SheetRow], title: str) -> Image.Image:
    """All rows below each other under one title line."""
    lines = [(line, row.prompt if i == 0 else None) for row in rows for i, line in enumerate(row.lines)]
    columns = max(len(line) for line, _ in lines)
    shown = [[tile.image if tile.strip else scaled(tile.image) for tile in line] for line, _ in lines]
    cell = max(image.width for images in shown for image in images)
    cell = max(cell, 200)
    width = 2 * MARGIN + columns * cell + (columns - 1) * GAP
    heights = [_height(*line, images) for line, images in zip(lines, shown, strict=True)]
    canvas = Image.new("RGB", (width, MARGIN + 30 + sum(heights) + MARGIN // 2), GROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN - 8), fitted(title, font(15), width - 2 * MARGIN), FAINT, font(15))
    top = MARGIN + 30
    for (line, prompt), images, height in zip(lines, shown, heights, strict=True):
        if prompt is not None:
            pen.text((MARGIN, top), fitted(prompt, font(20), width - 2 * MARGIN), INK, font(20))
        _draw_line(canvas, pen, line, images, cell, top + (0 if prompt is None else PROMPT))
        top += height
    return canvas


def _height(line: Sequence[Tile], prompt: str | None, images: Sequence[Image.Image]) -> int:
    lines = max(len(tile.scores) for tile in line)
    above = 0 if prompt is None else PROMPT
    return above + max(image.height for image in images) + 10 + 24 + 20 * lines + 26


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
    pen.text((left, top), tile.label, colour, font(18))
    if tile.note:
        note = font(16)
        pen.text((left + cell - round(note.getlength(tile.note)), top + 2), tile.note, colour, note)
    for i, line in enumerate(tile.scores):
        pen.text((left, top + 25 + 20 * i), fitted(line, font(15), cell), FAINT, font(15))


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


def font(size: int) -> Font:
    """The font of all sheets."""
    return ImageFont.load_default(size)


def fitted(text: str, face: Font, width: int) -> str:
    """The text on one line, cut to a width."""
    text = " ".join(text.split())
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
