"""Images and videos as files, with their origin inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from genscale import __version__
from genscale.runs import png_metadata, video_files
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from genscale.media import Item

RATE = 16.0  # frames a second, as Wan's videos have


def write(
    folder: RunFolder, stem: str, item: Item, request: Request, again: dict[str, Any], scheduler: str
) -> list[str]:
    """The names of the files: an image; of a video its first frame, and the video itself in each of its formats.

    All of them carry the metadata, unless the request wants none.
    """
    frames = item if isinstance(item, list) else [item]
    info = comment = None
    if isinstance(item, list):
        again = again | {"clip": video_files.fingerprint(item)}
    if request.metadata:
        text = png_metadata.infotext(request, again["prompt"], frames[0].size, scheduler, __version__)
        info, comment = png_metadata.png_info(text, again), png_metadata.as_json(again)
    folder.write(f"{stem}.png", lambda path: frames[0].save(path, format="PNG", pnginfo=info))
    kinds = (request.formats or video_files.FORMATS) if isinstance(item, list) else ()
    for kind in kinds:
        folder.write(
            f"{stem}.{kind}", partial(_film, kind=kind, frames=frames, request=request, comment=comment)
        )
    return [f"{stem}.png", *(f"{stem}.{kind}" for kind in kinds)]


def _film(
    path: Path, kind: str, frames: Sequence[Image.Image], request: Request, comment: str | None
) -> None:
    video_files.write(path, kind, frames, rate(request), comment)


def rate(request: Request) -> float:
    """Frames a second: as asked for, else the pipeline's own argument where the request has it, else 16."""
    own = request.pipeline_args.get("frame_rate") or request.pipeline_args.get("fps")
    return float(request.fps or own or RATE)
