"""Finds a font file that has the characters of a word, among those that come with Python packages and the system's."""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFont

REGULAR = 400  # of the weight axis of a variable font, whose default may be the thinnest
COLOUR = 1 << 14  # FreeType's FT_FACE_FLAG_COLOR
PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
"""Packages with Noto fonts, installed by the extra `fonts`."""

# Faces of one file that draw the same Chinese characters in the ways of different countries.
_COUNTRIES = (("HIRAGANA", "JP"), ("KATAKANA", "JP"), ("HANGUL", "KR"), ("BOPOMOFO", "TC"), ("CJK", "SC"))
_UNUSUAL = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "narrow", "mono", "serif")


@dataclass(frozen=True)
class FontFile:
    """A font file; path None: Pillow's own. index: which face of a collection."""

    path: Path | None
    index: int = 0

    def sized(self, size: int) -> ImageFont.FreeTypeFont:
        """The font, with characters of so many pixels."""
        return _sized(self.path, self.index, size)

    def has(self, characters: str) -> bool:
        """Whether there is a glyph for each of them."""
        known = _characters(self.path)
        wanted = np.unique(np.array([ord(c) for c in characters], np.uint32))
        places = np.searchsorted(known, wanted)
        return bool(np.all(places < len(known)) and np.all(known[places] == wanted))


PILLOW = FontFile(None)  # Aileron: narrow, but of little more than ASCII


@functools.cache
def matplotlib_font() -> FontFile:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and many symbols."""
    import matplotlib

    return FontFile(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@functools.lru_cache(4096)
def font_with(characters: str, first: FontFile, text: str = "") -> FontFile | None:
    """The first font that has all the characters, beginning with `first`; None where no font has.

    text: letters around the characters, which tell Japanese from Chinese.
    """
    for font in (first, *_of_packages(), matplotlib_font(), *_of_system()):
        if font.has(characters):
            return font if font == first else _of_country(font, characters + text)
    return None


@functools.cache
def _of_packages() -> tuple[FontFile, ...]:
    """Small ones first, but for Noto Sans itself, which looks the same in most languages."""
    specs = [importlib.util.find_spec(name) for name in PACKAGES]
    folders = [Path(place) for spec in specs if spec for place in spec.submodule_search_locations or ()]
    files = [p for folder in folders for p in folder.glob("*.[to]t[fc]") if "Italic" not in p.name]
    return tuple(map(FontFile, sorted(files, key=lambda p: ("NotoSans[" not in p.name, p.stat().st_size))))


@functools.cache
def _of_system() -> tuple[FontFile, ...]:
    """What fontconfig or the system's folders have, upright sans-serif fonts of regular weight first."""
    from matplotlib import font_manager

    def order(path: Path) -> tuple[int, str]:
        name = path.stem.lower().replace("sans-serif", "").replace("sansserif", "")
        return sum(word in name for word in _UNUSUAL), path.name

    return tuple(map(FontFile, sorted(map(Path, font_manager.findSystemFonts()), key=order)))


@functools.cache
def _characters(path: Path | None) -> np.ndarray:
    """Code points with a glyph, sorted; none of a font that cannot be read, or has bitmaps or glyphs in colours."""
    from matplotlib.ft2font import FT2Font

    # Pillow's font has no file; these are the characters that it is known to have in all versions.
    if path is None:
        return np.array(sorted({*range(0x20, 0x7F), *map(ord, "©«°±´·»‘’“”…‹›™")}), np.uint32)
    try:
        ImageFont.truetype(str(path), 10)
        font = FT2Font(str(path))
        flags: Any = font.face_flags  # an enumeration since matplotlib 3.10
        usable = font.scalable and not int(getattr(flags, "value", flags)) & COLOUR
        return np.array(sorted(font.get_charmap()) if usable else [], np.uint32)
    except (OSError, RuntimeError, ValueError, TypeError):
        return np.array([], np.uint32)


def _of_country(font: FontFile, text: str) -> FontFile:
    """The face of a collection of Chinese, Japanese and Korean fonts that suits the text."""
    if font.path is None or font.path.suffix.lower() not in (".ttc", ".otc"):
        return font
    scripts = {unicodedata.name(c, "").split(" ")[0] for c in text}
    wanted = next((country for script, country in _COUNTRIES if script in scripts), "SC")
    names = list(_faces(font.path))
    return FontFile(font.path, next((i for i, name in enumerate(names) if name.split(" ")[-1] == wanted), 0))


@functools.cache
def _faces(path: Path) -> tuple[str, ...]:
    return tuple(_family_names(path))


def _family_names(path: Path) -> Iterator[str]:
    for index in range(64):
        try:
            yield str(ImageFont.truetype(str(path), 10, index=index).getname()[0])
        except OSError:
            return


@functools.cache
def _sized(path: Path | None, index: int, size: int) -> ImageFont.FreeTypeFont:
    if path is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # the other kind is of a Pillow without FreeType
        return font
    font = ImageFont.truetype(str(path), size, index=index)
    try:
        axes = font.get_variation_axes()
    except (OSError, NotImplementedError):  # no variable font, or a FreeType without variable fonts
        return font
    font.set_variation_by_axes([_regular(axis) for axis in axes])
    return font


def _regular(axis: Any) -> float:
    if axis.get("name") not in (b"Weight", "Weight"):
        return float(axis["default"] or 0)
    return float(min(max(REGULAR, axis["minimum"] or 0), axis["maximum"] or REGULAR))
