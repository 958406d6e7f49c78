"""Frames of a video side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

Frames = Sequence[Image.Image]


def strip(frames: Frames, most: int = 8, width: int = 1000, tile: int = 192, gap: int = 4) -> Image.Image:
    """At most so many frames of a video side by side, evenly spaced from the first to the last.

    Small frames are enlarged by a whole factor to at most `tile`, large ones reduced, so that all fit into `width`.
    """
    count = min(most, len(frames))
    places = [0] if count == 1 else [round(i * (len(frames) - 1) / (count - 1)) for i in range(count)]
    side = min(tile, (width + gap) // count - gap)
    shown = [_fitting(frames[i], side) for i in places]
    wide, tall = shown[0].size
    canvas = Image.new("RGB", (count * (wide + gap) - gap, tall), "white")
    for i, frame in enumerate(shown):
        canvas.paste(frame, (i * (wide + gap), 0))
    return canvas


def _fitting(frame: Image.Image, side: int) -> Image.Image:
    frame, longest = frame.convert("RGB"), max(frame.size)
    if side >= longest:
        size = (frame.width * (side // longest), frame.height * (side // longest))
        return frame.resize(size, Image.Resampling.NEAREST)
    size = (max(1, round(frame.width * side / longest)), max(1, round(frame.height * side / longest)))
    return frame.resize(size, Image.Resampling.LANCZOS)
