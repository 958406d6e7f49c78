"""Reads the metadata of a file that genscale wrote: from a PNG's text chunk, or the comment of another kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from genscale.engine.journal import CandidateRecord
from genscale.errors import UsageError
from genscale.report import audio_files, data_files, video_files
from genscale.runs.run_record import Missing
from genscale.storage import typed_json
from genscale.storage.former_names import with_present_names
from genscale.storage.typed_json import Count, FileName


class _Asked(TypedDict):
    request: dict[str, Any]


class Video(TypedDict):
    """`video_files.fingerprint` of its frames."""

    frames: Count
    sha256: str


class Metadata(_Asked, total=False):
    """The fields that are read again."""

    prompt: str
    index: Count
    is_base: bool
    file: FileName
    shows: CandidateRecord
    versions: dict[str, str]
    clip: Video
    content: dict[str, Any]
    missing: Missing


def read_metadata(file: Path) -> dict[str, Any]:
    """The JSON inside. UsageError where there is none, or none that can be read."""
    kind, read = _reader(file.suffix.lower())
    try:
        text = read(file)
    except UsageError:
        raise
    except Exception as error:  # damaged files make readers raise exceptions of any kind
        reason = getattr(error, "strerror", None) or f"it is not {_a(kind)}, or a damaged one"
        raise UsageError(f"{kind} '{file}' cannot be read: {reason}.") from None
    if not text:
        instead = ": name the PNG beside it" if file.suffix.lower() == ".txt" else ": it cannot be run again"
        raise UsageError(f"{kind} '{file}' carries no genscale metadata{instead}.")
    try:
        data: dict[str, Any] = with_present_names(typed_json.parse(text))
        typed_json.check(data, Metadata)
    except ValueError as error:
        raise UsageError(f"{kind} '{file}' carries genscale metadata that cannot be read: {error}.") from None
    return data


def _reader(ending: str) -> tuple[str, Callable[[Path], str | None]]:
    """What a file with this ending is called in messages, and what reads the text in it."""
    if ending in video_files.VIDEOS:
        return "video", video_files.comment_of
    if ending in audio_files.AUDIOS:
        return "sound", audio_files.comment_of
    if ending in data_files.ENDINGS:
        return "file", data_files.comment_of
    return "image", _text_of_image


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _text_of_image(file: Path) -> str | None:
    from PIL import Image

    try:
        opened = Image.open(file)
    except Image.DecompressionBombError:
        raise OSError(None, "it has too many pixels") from None
    with opened as image:
        image.load()
        text = getattr(image, "text", {}).get("genscale")
        comment = image.info.get("comment")
    if (
        text is None and isinstance(comment, bytes) and b'"genscale"' in comment
    ):  # GIFs of other programs have them
        text = comment.decode(errors="replace")
    return text
