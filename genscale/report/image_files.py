"""Images and videos as files that say how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from genscale import __version__
from genscale.report import png_metadata, video_files
from genscale.report.output_folder import OutputFolder

if TYPE_CHECKING:
    from genscale.media import Item

RATE = 16.0  # frames per second, as Wan's videos have


def write_item(
    folder: OutputFolder,
    stem: str,
    item: Item,
    request: Mapping[str, Any],
    again: dict[str, Any],
    scheduler: str,
) -> list[str]:
    """The names of the files: an image; of a video its first frame, and the video itself in each of its formats.

    request: as request.json has it. again: the JSON that all files carry as metadata, unless the request wants none.
    """
    frames = item if isinstance(item, list) else [item]
    info = comment = None
    if isinstance(item, list):
        again = again | {"clip": video_files.fingerprint(item)}
    if request.get("metadata", True):
        text = png_metadata.infotext(request, again["prompt"], frames[0].size, scheduler, __version__)
        info, comment = png_metadata.png_info(text, again), png_metadata.as_json(again)
    folder.write(f"{stem}.png", lambda path: frames[0].save(path, format="PNG", pnginfo=info))
    kinds = (request.get("formats") or video_files.FORMATS) if isinstance(item, list) else ()
    for kind in kinds:
        save = partial(
            video_files.write_video, kind=kind, frames=frames, rate=frame_rate(request), comment=comment
        )
        folder.write(f"{stem}.{kind}", save)
    return [f"{stem}.png", *(f"{stem}.{kind}" for kind in kinds)]


def frame_rate(request: Mapping[str, Any]) -> float:
    """Frames per second: as asked for, else the pipeline's own argument where the request has it, else 16."""
    own = request.get("pipeline_args", {})
    return float(request.get("fps") or own.get("frame_rate") or own.get("fps") or RATE)
