"""A grid of images: one row per prompt, one column per entry, scores below each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from genscale.report.contact_sheet import ACCENT, FAINT, FRAME, GAP, GROUND, INK, MARGIN, SMALL, scaled
from genscale.report.lettering import Lettering

LABEL = 168  # width of the column of prompts
LINE = 19  # height of a line of text
MOST = 5  # lines of a prompt
TINY = Lettering(14)


@dataclass(frozen=True)
class Cell:
    """An image with lines of scores; the best of its row is framed. None: the entry has no image there."""

    image: Image.Image | None
    lines: tuple[str, ...] = ()
    best: bool = False


def grid(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], title: str, note: str, tile: int
) -> Image.Image:
    """columns: headings. rows: (prompt, cells). tile: largest side, in pixels, to which small images are enlarged."""
    shown = [[None if c.image is None else scaled(c.image, tile) for c in cells] for _, cells in rows]
    sizes = [p.size for images in shown for p in images if p is not None]
    cell = max([w for w, _ in sizes] + [124])
    tall = max([h for _, h in sizes] + [24])
    heads = [SMALL.wrapped(name, cell, 3) for name in columns]
    lines = max(len(c.lines) for _, cells in rows for c in cells)
    height = tall + 8 + LINE * lines + 18
    top = MARGIN + 30 + LINE * max(map(len, heads)) + 10
    width = 2 * MARGIN + LABEL + len(columns) * (cell + GAP)
    canvas = Image.new("RGB", (width, top + height * len(rows) + LINE + MARGIN), GROUND)
    pen = ImageDraw.Draw(canvas)
    SMALL.draw(pen, (MARGIN, MARGIN - 8), SMALL.fitted(title, width - 2 * MARGIN), FAINT)
    for k, head in enumerate(heads):
        for n, line in enumerate(head):
            y = top - 10 - LINE * (len(head) - n)
            SMALL.draw(pen, (_left(k, cell), y), line, INK)
    for n, ((prompt, cells), images) in enumerate(zip(rows, shown, strict=True)):
        y = top + n * height
        for m, line in enumerate(SMALL.wrapped(prompt, LABEL - 12, MOST)):
            SMALL.draw(pen, (MARGIN, y + LINE * m), line, INK)
        for k, (one, image) in enumerate(zip(cells, images, strict=True)):
            _draw(canvas, pen, one, image, (_left(k, cell), y), (cell, tall))
    TINY.draw(pen, (MARGIN, canvas.height - MARGIN - 6), TINY.fitted(note, width - 2 * MARGIN), FAINT)
    return canvas


def _left(column: int, cell: int) -> int:
    return MARGIN + LABEL + column * (cell + GAP)


def _draw(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    cell: Cell,
    image: Image.Image | None,
    place: tuple[int, int],
    size: tuple[int, int],
) -> None:
    (left, top), (wide, tall) = place, size
    if image is None:
        TINY.draw(pen, (left, top), "none", FAINT)
    else:
        thick = 4 if cell.best else 1
        x, y = left, top + (tall - image.height) // 2
        box = (x - thick, y - thick, x + image.width + thick - 1, y + image.height + thick - 1)
        pen.rectangle(box, outline=ACCENT if cell.best else FRAME, width=thick)
        canvas.paste(image, (x, y))
    for n, line in enumerate(cell.lines):
        colour = ACCENT if cell.best and n == 0 else FAINT
        TINY.draw(pen, (left, top + tall + 7 + LINE * n), TINY.fitted(line, wide), colour)
