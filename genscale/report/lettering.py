"""Text of any language in images: drawn, measured, cut to a width and wrapped to lines.

The cost grows with what is shown, not with the length of the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import ImageDraw, ImageFont

from genscale.report.font_files import PILLOW, FontFile
from genscale.report.text_runs import Run, clusters, joins, one_line, runs

DOTS = "..."
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


@dataclass(frozen=True)
class Lettering:
    """A font size in pixels, and the font for all that it has; other characters are drawn in other fonts."""

    size: int
    first: FontFile = PILLOW

    def draw(self, pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Any) -> None:
        """One line of text. place: of its upper left corner."""
        x, y = place
        baseline = y + self.first.sized(self.size).getmetrics()[0]
        for run in runs(one_line(text), self.first):
            font, words, more = _set(run, self.size)
            pen.text((x, baseline), words, colour, font, anchor="ls", **more)
            x += font.getlength(words, **more)

    def width(self, text: str) -> float:
        """In pixels, of the text on one line."""
        return self._width(one_line(text))

    def fitted(self, text: str, width: float) -> str:
        """The text on one line, cut to a width in pixels."""
        text = one_line(text)
        if self._fits(text, width):
            return text
        return self._beginning(text, width, DOTS).rstrip() + DOTS

    def wrapped(self, text: str, width: float, most: int) -> list[str]:
        """The text on at most so many lines of a width, broken at spaces, brackets and commas; in Chinese anywhere."""
        lines, line = [], ""
        for piece in _pieces(one_line(text)):
            if self._fits((line + piece).rstrip(), width):
                line += piece
                continue
            if line.strip():
                lines.append(line.rstrip())
            line = piece.lstrip()
            while len(lines) <= most and not self._fits(line.rstrip(), width):
                start = self._beginning(line, width) or clusters(line[:64])[0]
                if start == line:
                    break
                lines.append(start)
                line = line[len(start) :]
            if len(lines) > most:
                break
        lines = [*lines, line.rstrip()] if line.strip() and len(lines) <= most else lines
        if len(lines) > most:
            lines = [*lines[: most - 1], self.fitted(f"{lines[most - 1]} {DOTS}", width)]
        return lines

    def _width(self, text: str) -> float:
        found = 0.0
        for run in runs(text, self.first):
            font, words, more = _set(run, self.size)
            found += font.getlength(words, **more)
        return found

    def _fits(self, text: str, width: float) -> bool:
        return len(self._too_long(text, width)) == len(text) and self._width(text) <= width

    def _too_long(self, text: str, width: float) -> str:
        """A beginning of the text that does not fit, of at most about twice what does; all of it where it fits."""
        length = 32
        while length < len(text) and self._width(text[:length]) <= width:
            length *= 2
        return text[:length]

    def _beginning(self, text: str, width: float, end: str = "") -> str:
        """The longest beginning that fits together with `end`; a letter stays with its marks."""
        parts = clusters(self._too_long(text, width))
        low, high = 0, len(parts)
        while low < high:
            middle = (low + high + 1) // 2
            if self._width("".join(parts[:middle]).rstrip() + end) <= width:
                low = middle
            else:
                high = middle - 1
        return "".join(parts[:low])


def _set(run: Run, size: int) -> tuple[ImageFont.FreeTypeFont, str, dict[str, Any]]:
    """The font of a run, its text, and the options that Pillow draws and measures it with.

    Pillow joins Arabic letters and orders Indic vowels with the library Raqm only; where it has none, or a font is not
    set with it, letters are drawn one by one.
    """
    font = run.font.sized(size)
    if font.layout_engine == ImageFont.Layout.RAQM:
        return font, run.text, {"direction": "rtl" if run.right_to_left else "ltr"}
    plain = "".join(c for c in run.text if not joins(c))  # these would be drawn as boxes
    return font, "".join(reversed(clusters(plain.translate(_MIRRORED)))) if run.right_to_left else plain, {}


def _pieces(text: str) -> Iterator[str]:
    """Words with what follows them."""
    piece = ""
    for letter in text:
        wide = unicodedata.east_asian_width(letter) in "WF"
        if (letter == "(" or (wide and unicodedata.category(letter) == "Lo")) and piece:
            yield piece
            piece = ""
        piece += letter
        if letter in " ,+_":
            yield piece
            piece = ""
    if piece:
        yield piece
