"""Splits a line of text into runs of one font and one direction, in the order in which they are drawn.

Directions follow the Unicode bidirectional algorithm without its explicit embeddings. What no font has is written as
its code point, as in <U+4E2D>.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from genscale.report.font_files import FontFile, font_with

JOINER = "\u200d"
MARKS, LONGEST = 6, 32  # marks in a row, and characters of a cluster, that are kept: no script has as many
_REGIONS = range(0x1F1E6, 0x1F200)  # two of them are a flag


@dataclass(frozen=True)
class Run:
    """Text in one font. right_to_left: the direction in which it is read; the text is in the order of reading."""

    text: str
    font: FontFile
    right_to_left: bool


def one_line(text: str) -> str:
    """The text without line breaks, double spaces and invisible characters, in composed form (NFC)."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(c for c in text if c.isascii() or not _invisible(c))


def clusters(text: str) -> list[str]:
    """Letters with their marks, emoji with their modifiers, flags: what must not be cut in two."""
    found: list[str] = []
    for c in text:
        if found and (_extends(c) or found[-1][-1] == JOINER or _second_region(found[-1], c)):
            if len(found[-1]) < LONGEST and not all(map(_is_mark, (*found[-1][-MARKS:], c))):
                found[-1] += c
        else:
            found.append(c)
    return found


def runs(text: str, first: FontFile) -> list[Run]:
    """The runs of a text without line breaks, from left to right. first: the font for all that it has."""
    pieces = list(_pieces(text, first))
    levels = _levels([piece for piece, _ in pieces])
    keyed = zip(pieces, levels, strict=True)
    found = []
    for (font, level), some in groupby(keyed, key=lambda pair: (pair[0][1], pair[1])):
        found.append((Run("".join(piece for (piece, _), _ in some), font, level % 2 == 1), level))
    return _reordered(found)


def _pieces(text: str, first: FontFile) -> Iterator[tuple[str, FontFile]]:
    """Clusters with their fonts. A word is in one font if any font has all of it.

    A space is in the font of the letter before it, but not in a font of emoji, which is as wide as these.
    """
    font = first
    for is_space, letters in groupby(clusters(text), key=str.isspace):
        word = list(letters)
        whole = font if is_space else _font_of("".join(word), first, text)
        for cluster in word:
            for piece, used in [(cluster, whole)] if whole else _in_any_font(cluster, first, text):
                font = used if piece[0].isalpha() and used.has(" ") else first
                yield piece, used


def _font_of(characters: str, first: FontFile, text: str) -> FontFile | None:
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in characters):
        return None  # control characters and halves of surrogate pairs
    visible = "".join(c for c in characters if not joins(c))
    return font_with(visible, first, text[:64]) if visible else None


def _in_any_font(cluster: str, first: FontFile, text: str) -> Iterator[tuple[str, FontFile]]:
    font = _font_of(cluster, first, text)
    if font is not None:
        yield cluster, font
    elif len(cluster) == 1:
        yield from ((c, first) for c in f"<U+{ord(cluster):04X}>")
    else:
        for c in cluster:
            if not joins(c):
                yield from _in_any_font(c, first, text)


def _invisible(c: str) -> bool:
    """Soft hyphens, byte order marks, directions: format characters that neither show nor change a letter."""
    shows = unicodedata.category(c) != "Cf" or unicodedata.bidirectional(c) in ("AN", "AL")
    return not shows and not joins(c)


def joins(c: str) -> bool:
    """Joiners and variation selectors: they show nothing, and fonts need not have them."""
    return c in "\u200c\u200d" or "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef" or _is_tag(c)


def _is_tag(c: str) -> bool:
    return "\U000e0020" <= c <= "\U000e007f"  # they spell the region of a flag


def _is_mark(c: str) -> bool:
    return unicodedata.category(c).startswith("M")


def _extends(c: str) -> bool:
    return _is_mark(c) or joins(c) or "\U0001f3fb" <= c <= "\U0001f3ff"


def _second_region(before: str, c: str) -> bool:
    return len(before) == 1 and ord(before) in _REGIONS and ord(c) in _REGIONS


# ---------------------------------------------------------------- directions


def _levels(pieces: Sequence[str]) -> list[int]:
    """The level of each piece: even ones are read from left to right, odd ones from right to left."""
    kinds = [_kind(piece) for piece in pieces]
    if "R" not in kinds:
        return [0] * len(pieces)
    base = next(k for k in kinds if k in "LR")
    _settle_numbers(kinds, base)
    _settle_brackets(pieces, kinds, base)
    following = base
    after = [following := {"1": "R", "L": "L", "R": "R"}.get(k, following) for k in reversed(kinds)][::-1]
    found, before = [], base
    for kind, then in zip(kinds, after, strict=True):
        if kind in "LR1":
            before = "R" if kind == "1" else kind
        else:
            kind = before if before == then else base
        found.append({"L": 2 * (base == "R"), "R": 1, "1": 2}[kind])
    return found


def _settle_numbers(kinds: list[str], base: str) -> None:
    """Separators inside a number and signs beside it belong to it, and numbers to letters before them that are read
    from the left."""
    for i in range(1, len(kinds) - 1):
        if kinds[i] == "," and kinds[i - 1] == kinds[i + 1] == "1":
            kinds[i] = "1"
    for way in (range(1, len(kinds)), range(len(kinds) - 2, -1, -1)):
        for i in way:
            if kinds[i] == "%" and kinds[i - way.step] == "1":
                kinds[i] = "1"
    before = base
    for i, kind in enumerate(kinds):
        before = kind if kind in "LR" else before
        if kind == "1" and before == "L":
            kinds[i] = "L"


def _settle_brackets(pieces: Sequence[str], kinds: list[str], base: str) -> None:
    """A pair of brackets goes with the line, or with what is in it and before it where both go the other way."""
    opened: list[int] = []
    for i, piece in enumerate(pieces):
        if piece in "([{":
            opened.append(i)
        elif piece in ")]}" and opened:
            start = opened.pop()
            inside = {"R" if k == "1" else k for k in kinds[start + 1 : i] if k in "LR1"}
            before = next((k for k in reversed(kinds[:start]) if k in "LR"), base)
            if inside:
                kinds[start] = kinds[i] = before if base not in inside and before in inside else base


def _kind(piece: str) -> str:
    """L or R of letters, 1 of digits, a comma of what may separate them, % of signs beside them, a space of others."""
    kind = unicodedata.bidirectional(piece[0])
    return {"L": "L", "R": "R", "AL": "R", "EN": "1", "AN": "1", "CS": ",", "ES": ",", "ET": "%"}.get(
        kind, " "
    )


def _reordered(found: list[tuple[Run, int]]) -> list[Run]:
    """From the order of reading to that of drawing: stretches of each level are reversed, from the highest down."""
    for level in range(max((level for _, level in found), default=0), 0, -1):
        turned: list[tuple[Run, int]] = []
        for high, some in groupby(found, key=lambda pair: pair[1] >= level):
            stretch = list(some)
            turned += reversed(stretch) if high else stretch
        found = turned
    return [run for run, _ in found]
