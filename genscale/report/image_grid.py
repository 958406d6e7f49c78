"""A grid of images: one row per prompt, one column per entry, scores below each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from genscale.report.contact_sheet import (
    ACCENT,
    FAINT,
    FRAME,
    GAP,
    GROUND,
    INK,
    MARGIN,
    Font,
    fitted,
    font,
    scaled,
)

LABEL = 168  # width of the column of prompts
LINE = 19  # height of a line of text
MOST = 5  # lines of a prompt


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
    heads = [wrapped(name, font(15), cell, 3) for name in columns]
    lines = max(len(c.lines) for _, cells in rows for c in cells)
    height = tall + 8 + LINE * lines + 18
    top = MARGIN + 30 + LINE * max(map(len, heads)) + 10
    width = 2 * MARGIN + LABEL + len(columns) * (cell + GAP)
    canvas = Image.new("RGB", (width, top + height * len(rows) + LINE + MARGIN), GROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN - 8), fitted(title, font(15), width - 2 * MARGIN), FAINT, font(15))
    for k, head in enumerate(heads):
        for n, line in enumerate(head):
            y = top - 10 - LINE * (len(head) - n)
            pen.text((_left(k, cell), y), line, INK, font(15))
    for n, ((prompt, cells), images) in enumerate(zip(rows, shown, strict=True)):
        y = top + n * height
        for m, line in enumerate(wrapped(prompt, font(15), LABEL - 12, MOST)):
            pen.text((MARGIN, y + LINE * m), line, INK, font(15))
        for k, (one, image) in enumerate(zip(cells, images, strict=True)):
            _draw(canvas, pen, one, image, (_left(k, cell), y), (cell, tall))
    pen.text(
        (MARGIN, canvas.height - MARGIN - 6), fitted(note, font(14), width - 2 * MARGIN), FAINT, font(14)
    )
    return canvas


def wrapped(text: str, face: Font, width: int, most: int) -> list[str]:
    """The text on at most so many lines of a width, broken at spaces, brackets and commas where possible."""
    lines, line = [], ""
    for piece in _pieces(" ".join(text.split())):
        if face.getlength((line + piece).rstrip()) <= width:
            line += piece
            continue
        if line.strip():
            lines.append(line.rstrip())
        line = piece.lstrip()
        while face.getlength(line.rstrip()) > width and len(line) > 1:
            cut = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or face.getlength(line[:n]) <= width)
            lines.append(line[:cut])
            line = line[cut:]
    lines = [*lines, line.rstrip()] if line.strip() else lines
    if len(lines) > most:
        lines = [*lines[: most - 1], fitted(lines[most - 1] + " ...", face, width)]
    return lines


def _pieces(text: str) -> list[str]:
    """Words with what follows them."""
    found, piece = [], ""
    for letter in text:
        if letter == "(" and piece:
            found.append(piece)
            piece = ""
        piece += letter
        if letter in " ,+_":
            found.append(piece)
            piece = ""
    return [*found, piece] if piece else found


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
        pen.text((left, top), "none", FAINT, font(14))
    else:
        thick = 4 if cell.best else 1
        x, y = left, top + (tall - image.height) // 2
        box = (x - thick, y - thick, x + image.width + thick - 1, y + image.height + thick - 1)
        pen.rectangle(box, outline=ACCENT if cell.best else FRAME, width=thick)
        canvas.paste(image, (x, y))
    for n, line in enumerate(cell.lines):
        colour = ACCENT if cell.best and n == 0 else FAINT
        pen.text((left, top + tall + 7 + LINE * n), fitted(line, font(14), wide), colour, font(14))
