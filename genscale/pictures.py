"""Pictures and clips as files, with their origin inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from genscale import __version__, infotext
from genscale.request import Request
from genscale.run_folder import RunFolder

if TYPE_CHECKING:
    from genscale.media import Item


def write(
    folder: RunFolder, stem: str, item: Item, request: Request, again: dict[str, Any], scheduler: str
) -> list[str]:
    """A picture; of a clip its first frame (which carries the metadata) and the clip itself."""
    still = item[0] if isinstance(item, list) else item
    info = None
    if request.metadata:
        text = infotext.infotext(request, again["prompt"], still.size, scheduler, __version__)
        info = infotext.png_info(text, again)
    folder.write(f"{stem}.png", lambda path: still.save(path, format="PNG", pnginfo=info))
    names = [f"{stem}.png"]
    if isinstance(item, list):
        names += _write_clip(folder, stem, item, _rate(request))
    return names


def _write_clip(folder: RunFolder, stem: str, frames: Sequence[Image.Image], rate: float) -> list[str]:
    """An MP4 where imageio and PyAV are installed, else an animated PNG, which every browser plays."""
    try:
        import av  # noqa: F401
        import imageio.v3 as imageio
        import numpy as np
    except ImportError:
        name = f"{stem}-clip.png"

        def animate(path: Path) -> None:
            pause = round(1000 / rate)
            frames[0].save(
                path, format="PNG", save_all=True, append_images=list(frames[1:]), duration=pause, loop=0
            )

        folder.write(name, animate)
        return [name]
    even = (frames[0].width // 2 * 2, frames[0].height // 2 * 2)  # what the codec asks for
    clip = np.stack([np.asarray(f.convert("RGB").crop((0, 0, *even))) for f in frames])
    name = f"{stem}.mp4"
    folder.write(
        name,
        lambda path: imageio.imwrite(path, clip, extension=".mp4", plugin="pyav", codec="libx264", fps=rate),
    )
    return [name]


def _rate(request: Request) -> float:
    """Frames a second: the pipeline's own argument where it has one."""
    return float(request.pipeline_args.get("frame_rate") or request.pipeline_args.get("fps") or 16)
