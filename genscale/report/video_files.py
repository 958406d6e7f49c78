"""Videos as files: MP4 and GIF with a comment inside, and their frames and comments again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from genscale.errors import UsageError
from genscale.report.film_strip import Frames

FORMATS = ("mp4", "gif")
VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi")
"""Suffixes of files that are decoded as videos; animated images are left to Pillow."""


def write_video(path: Path, kind: str, frames: Frames, rate: float, comment: str | None = None) -> None:
    """kind: one of FORMATS. rate: frames per second. comment: text stored in the file."""
    {"mp4": _write_mp4, "gif": _write_gif}[kind](path, frames, rate, comment)


def _write_mp4(path: Path, frames: Frames, rate: float, comment: str | None) -> None:
    """H.264 in 4:2:0, which every browser plays. Its sides must be even: an odd one loses its last line."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.width, stream.height = (side // 2 * 2 for side in frames[0].size)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"}
        box = (0, 0, stream.width, stream.height)
        for frame in frames:
            encoded = av.VideoFrame.from_image(frame.convert("RGB").crop(box))
            container.mux(stream.encode(encoded))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Frames, rate: float, comment: str | None) -> None:
    """Each frame with its own palette. GIF counts hundredths of a second, so rates are rounded."""
    first, *others = (frame.convert("RGB") for frame in frames)
    pause = max(round(100 / rate), 2) * 10  # browsers slow down GIFs with pauses below 20 ms
    more: dict[str, Any] = {} if comment is None else {"comment": comment.encode()}
    first.save(path, format="GIF", save_all=True, append_images=others, duration=pause, loop=0, **more)


def read_frames(path: Path) -> list[np.ndarray]:
    """The frames of a video, uint8 [h, w, 3] each. UsageError where it cannot be read."""
    try:
        found = list(_decoded(path))
    except Exception as error:
        raise UsageError(f"'{path}' cannot be read as a video: {type(error).__name__}.") from None
    if not found:
        raise UsageError(f"'{path}' cannot be read as a video: it has no frames.")
    return found


def _decoded(path: Path) -> Iterator[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def comment_of(path: Path) -> str | None:
    """The comment in a video; None where it has none. OSError where it cannot be read."""
    import av

    try:
        with av.open(str(path)) as container:
            comment: str | None = container.metadata.get("comment")
            return comment
    except av.error.FFmpegError as error:
        raise OSError(getattr(error, "errno", None), "it is not a video") from None


def fingerprint(frames: Frames) -> dict[str, Any]:
    """How many frames a video has, and a hash of all their pixels, since video files are lossy."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.width}x{frame.height}".encode())
        digest.update(frame.convert("RGB").tobytes())
    return {"frames": len(frames), "sha256": digest.hexdigest()}
