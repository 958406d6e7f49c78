"""A figure of matplotlib that notebooks show; imported on use."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

WIDTH = 80  # pixels to the inch on the page; the image has more of them, for sharp screens


class ShownFigure(Figure):
    """Without pyplot there is no window and no global state, but also nothing that shows a figure: it shows itself."""

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue(), {"width": round(self.get_figwidth() * WIDTH)}
