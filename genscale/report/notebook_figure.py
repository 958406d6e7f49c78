"""A matplotlib figure that notebooks display; imported on use."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

WIDTH = 80  # displayed pixels per inch; the PNG has more, for high-resolution screens


class ShownFigure(Figure):
    """A figure made without pyplot, so without windows and global state; notebooks display it by `_repr_png_`."""

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue(), {"width": round(self.get_figwidth() * WIDTH)}
