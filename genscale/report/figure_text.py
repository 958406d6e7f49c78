"""Text of any language in matplotlib figures.

matplotlib joins no Arabic letters before its version 3.11, and draws variable fonts in their thinnest weight. A text
that its own font cannot show from left to right is therefore an image, drawn by `Lettering`.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from genscale.report.font_files import matplotlib_font
from genscale.report.lettering import Lettering
from genscale.report.text_runs import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARPER = 2  # pixels of such an image for one of the figure's, so that it can be saved larger


def write_line(
    figure: Figure, place: tuple[float, float], text: str, size: float, colour: str, width: float
) -> None:
    """One line of text, cut to a width. place: of the middle of its left edge, in fractions of the figure, as is width.

    size: in points.
    """
    face, text = _fitted(figure, text, size, width)
    if shown_by_matplotlib(text):
        figure.text(*place, text, fontsize=size, color=colour, va="center", parse_math=False)
    else:
        figure.add_artist(_image(face, text, place, colour, 0.5, figure.dpi))


def write_title(figure: Figure, text: str, size: float, colour: str, left: float = 0.02) -> None:
    """A line above all axes of a figure with constrained layout, as `suptitle`, cut to the figure's width."""
    face, text = _fitted(figure, text, size, 1 - 2 * left)
    if shown_by_matplotlib(text):
        figure.suptitle(text, fontsize=size, color=colour, x=left, ha="left", parse_math=False)
    else:
        figure.suptitle("Ag", fontsize=size, alpha=0)  # keeps the place
        figure.add_artist(_image(face, text, (left, 0.995), colour, 1.0, figure.dpi))


def shown_by_matplotlib(text: str) -> bool:
    """Whether its default font has all characters, and all are read from left to right."""
    return not any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in text) and (
        not text or matplotlib_font().has(text)
    )


def plain(text: str) -> str:
    """The text with code points, as in <U+4E2D>, for what matplotlib's default font lacks: for labels and legends."""
    font = matplotlib_font()
    return "".join(c if font.has(c) else f"<U+{ord(c):04X}>" for c in one_line(text))


def _fitted(figure: Figure, text: str, size: float, width: float) -> tuple[Lettering, str]:
    face = Lettering(round(SHARPER * size * figure.dpi / 72), matplotlib_font())
    return face, face.fitted(text, SHARPER * width * figure.get_figwidth() * figure.dpi)


def _image(
    face: Lettering, text: str, place: tuple[float, float], colour: str, height: float, dpi: float
) -> Any:
    """height: the part of the image that lies below the place."""
    import numpy as np
    from matplotlib.colors import to_rgb
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from PIL import Image, ImageDraw

    ascent, descent = face.first.sized(face.size).getmetrics()
    mask = Image.new("L", (max(1, round(face.width(text))), ascent + descent))
    face.draw(ImageDraw.Draw(mask), (0, 0), text, 255)
    pixels = np.empty((mask.height, mask.width, 4))
    pixels[..., :3], pixels[..., 3] = to_rgb(colour), np.asarray(mask) / 255
    image = OffsetImage(pixels, zoom=72 / dpi / SHARPER, resample=True)
    return AnnotationBbox(
        image, place, xycoords="figure fraction", box_alignment=(0, height), frameon=False, pad=0,
        annotation_clip=False,
    )  # fmt: skip
