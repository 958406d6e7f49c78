"""What a file that genscale wrote says of itself: read from a PNG's text, a GIF's comment or a film's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.runs import video_files


def read(file: Path) -> dict[str, Any]:
    """The JSON inside. UsageError where there is none, or none that can be read."""
    kind = "film" if file.suffix.lower() in video_files.CLIPS else "picture"
    try:
        text = video_files.comment_of(file) if kind == "film" else _of_picture(file)
    except OSError as error:
        raise UsageError(f"{kind} '{file}' cannot be read: {error.strerror or f'it is no {kind}'}.") from None
    if not text:
        raise UsageError(f"{kind} '{file}' carries no genscale metadata: it cannot be run again.")
    try:
        data: dict[str, Any] = json.loads(text)
        data["request"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{kind} '{file}' carries genscale metadata that cannot be read.") from None
    return data


def _of_picture(file: Path) -> str | None:
    from PIL import Image

    with Image.open(file) as image:
        image.load()
        text = getattr(image, "text", {}).get("genscale")
        comment = image.info.get("comment")
    if text is None and isinstance(comment, bytes) and b'"genscale"' in comment:  # anybody's may be in a GIF
        text = comment.decode(errors="replace")
    return text
