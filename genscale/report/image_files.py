"""What a pipeline made, as files that say how it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from genscale import __version__
from genscale.media_items import Audio
from genscale.report import audio_files, data_files, item_pictures, png_metadata, video_files
from genscale.report.output_folder import OutputFolder

if TYPE_CHECKING:
    from genscale.media import Item

RATE = 16.0  # frames per second, as Wan's videos have
FORMATS = (*video_files.FORMATS, *audio_files.FORMATS)
"""Formats that a request can ask for."""


def write_item(
    folder: OutputFolder,
    stem: str,
    item: Item,
    request: Mapping[str, Any],
    again: dict[str, Any],
    scheduler: str,
) -> list[str]:
    """The names of the files: an image or another item's picture, and what is not an image in its own formats.

    Of a video the picture is its first frame. request: as request.json has it. again: the JSON that all files carry as
    metadata, as far as their format has a place for it, unless the request wants none.
    """
    still, info, comment = item_pictures.picture(item), None, None
    again = again | fingerprint(item)
    if request.get("metadata", True):
        size = still.size if isinstance(item, Image.Image | list) else None
        text = png_metadata.infotext(request, again["prompt"], size, scheduler, __version__)
        info, comment = png_metadata.png_info(text, again), png_metadata.as_json(again)
    folder.write(f"{stem}.png", lambda path: still.save(path, format="PNG", pnginfo=info))
    kinds = formats_of(item, request)
    for kind in kinds:
        folder.write(f"{stem}.{kind}", writer(item, kind, request, comment))
    return [f"{stem}.png", *(f"{stem}.{kind}" for kind in kinds)]


def fingerprint(item: Item) -> dict[str, Any]:
    """What the metadata says of the content, to compare it with: nothing of an image, which a PNG holds as it is."""
    if isinstance(item, Image.Image):
        return {}
    if isinstance(item, list):
        return {"clip": video_files.fingerprint(item)}
    return {
        "content": audio_files.fingerprint(item) if isinstance(item, Audio) else data_files.fingerprint(item)
    }


def formats_of(item: Item, request: Mapping[str, Any]) -> tuple[str, ...]:
    """The files beside the PNG: those asked for that suit the item, else its own."""
    if isinstance(item, Image.Image):
        return ()
    if not isinstance(item, list | Audio):
        return (data_files.ending_of(item),)
    known, usual = (
        (video_files.FORMATS, video_files.FORMATS)
        if isinstance(item, list)
        else (audio_files.FORMATS, audio_files.FORMATS[:1])
    )
    return tuple(kind for kind in request.get("formats") or () if kind in known) or usual


def writer(item: Item, kind: str, request: Mapping[str, Any], comment: str | None) -> Callable[[Path], None]:
    """What writes an item in one of its formats."""
    if isinstance(item, list):
        return partial(
            video_files.write_video, kind=kind, frames=item, rate=frame_rate(request), comment=comment
        )
    if isinstance(item, Audio):
        return partial(audio_files.write_audio, kind=kind, audio=item, comment=comment)
    assert not isinstance(item, Image.Image)
    return partial(data_files.write_data, item=item, comment=comment)


def frame_rate(request: Mapping[str, Any]) -> float:
    """Frames per second: as asked for, else the pipeline's own argument where the request has it, else 16."""
    own = request.get("pipeline_args", {})
    return float(request.get("fps") or own.get("frame_rate") or own.get("fps") or RATE)
