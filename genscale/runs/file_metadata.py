"""Reads the metadata of a file that genscale wrote: from a PNG's text chunk, or the comment of a GIF or MP4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.report import video_files
from genscale.safe_json import parse_json

# What is read of the metadata, where it is there, besides the request.
_FIELDS: dict[str, type[Any]] = {
    "prompt": str, "file": str, "index": int, "shows": dict, "versions": dict, "clip": dict, "missing": dict
}  # fmt: skip


def read_metadata(file: Path) -> dict[str, Any]:
    """The JSON inside. UsageError where there is none, or none that can be read."""
    kind = "video" if file.suffix.lower() in video_files.VIDEOS else "image"
    try:
        text = video_files.comment_of(file) if kind == "video" else _text_of_image(file)
    except Exception as error:  # damaged files make readers raise exceptions of any kind
        reason = getattr(error, "strerror", None) or f"it is not {_a(kind)}, or a damaged one"
        raise UsageError(f"{kind} '{file}' cannot be read: {reason}.") from None
    if not text:
        raise UsageError(f"{kind} '{file}' carries no genscale metadata: it cannot be run again.")
    unreadable = f"{kind} '{file}' carries genscale metadata that cannot be read"
    data = parse_json(text, f"{unreadable}: it")
    if not isinstance(data, dict) or any(
        data.get(name) is not None and not isinstance(data[name], wanted) for name, wanted in _FIELDS.items()
    ):
        raise UsageError(f"{unreadable}.")
    if not isinstance(data.get("request"), dict) or (data.get("index") or 0) < 0:
        raise UsageError(f"{unreadable}.")
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
