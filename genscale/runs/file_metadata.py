"""Reads the metadata of a file that genscale wrote: from a PNG's text chunk, or the comment of a GIF or MP4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.report import video_files


def read_metadata(file: Path) -> dict[str, Any]:
    """The JSON inside. UsageError where there is none, or none that can be read."""
    kind = "video" if file.suffix.lower() in video_files.VIDEOS else "image"
    try:
        text = video_files.comment_of(file) if kind == "video" else _text_of_image(file)
    except OSError as error:
        raise UsageError(
            f"{kind} '{file}' cannot be read: {error.strerror or f'it is not {_a(kind)}'}."
        ) from None
    if not text:
        raise UsageError(f"{kind} '{file}' carries no genscale metadata: it cannot be run again.")
    try:
        data: dict[str, Any] = json.loads(text)
        data["request"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{kind} '{file}' carries genscale metadata that cannot be read.") from None
    return data


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _text_of_image(file: Path) -> str | None:
    from PIL import Image

    with Image.open(file) as image:
        image.load()
        text = getattr(image, "text", {}).get("genscale")
        comment = image.info.get("comment")
    if (
        text is None and isinstance(comment, bytes) and b'"genscale"' in comment
    ):  # GIFs of other programs have them
        text = comment.decode(errors="replace")
    return text
