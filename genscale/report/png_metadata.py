"""Metadata of an image: text chunks of its PNG file.

`parameters` is in the form of A1111's web UI, which most viewers and galleries read; `genscale` is JSON with
the whole request, from which the image can be made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genscale.report.model_names import short_model_name

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo


def infotext(
    request: Mapping[str, Any], prompt: str, size: tuple[int, int] | None, scheduler: str, version: str
) -> str:
    """The `parameters` text: prompt, negative prompt, then a line of `Name: value`.

    request: as request.json has it. size: in pixels, of an image or video.
    """
    numbers: dict[str, Any] = {
        "Steps": request.get("steps"),
        "Sampler": scheduler.removesuffix("Scheduler").removesuffix("Discrete") or None,
        "CFG scale": request.get("guidance"),
        "Seed": request.get("seed"),
        "Size": None if size is None else f"{size[0]}x{size[1]}",
        "Model": short_model_name(request["model"]),
        "Search": request["sampler"],
        "Verifier": "+".join(request.get("verifiers", ())),
        "Budget": f"{request['budget']} (pool)" if request.get("pool") else request.get("budget"),
        "Stop": request.get("stop"),
        "Version": f"genscale {version}",
    }
    lines = [prompt]
    if request.get("negative"):
        lines.append(f"Negative prompt: {request['negative']}")
    lines.append(", ".join(f"{k}: {_quoted(v)}" for k, v in numbers.items() if v not in (None, "")))
    return "\n".join(lines)


def png_info(parameters: str, again: Mapping[str, Any]) -> PngInfo:
    """Text chunks for `Image.save(pnginfo=)`."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if parameters.isascii():
        info.add_text("parameters", parameters)
    else:
        info.add_itxt("parameters", parameters)
    info.add_itxt("genscale", as_json(again), zip=False)
    return info


def as_json(again: Mapping[str, Any]) -> str:
    """What `genscale.runs.file_metadata` reads."""
    return json.dumps(again, ensure_ascii=False)


def _quoted(value: Any) -> str:
    """A value with a comma or colon is quoted, as A1111 does."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text
