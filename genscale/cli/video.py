"""The command `genscale video`: searches over videos."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer

from genscale.cli import options
from genscale.cli.execute import plan_request, run_request
from genscale.cli.generate import SEARCH, WRITE
from genscale.cli.request_options import request_of
from genscale.errors import UsageError

VIDEO = """
Examples:

  genscale video "a red circle moving left"

  genscale video "a red circle moving left and a blue circle moving up" --candidates 8 --seed 1 --out runs/circles

  genscale video "a dog runs" --model owner/name --frames 49 --verifier pickscore --verifier dynamic_degree:2

  genscale video --prompts prompts.txt --model owner/name --sampler successive_halving --offload model --vae-tiling

For each prompt it writes best.mp4, best.gif and best.png (the first frame), the same of the base video, and
contact.png, frames over time. Image verifiers score --per-frame frames; temporal_consistency and dynamic_degree score
the video.
"""

DEFAULT = "shapes-video"
VERIFIER, HELD_OUT = ("clip",), ("temporal_consistency", "dynamic_degree")
"""For models without verifiers of their own: what steers, and what shows whether videos stand still or fall apart."""


@options.takes(*SEARCH, *WRITE, words=True)
def video(ctx: typer.Context, **given: Any) -> int:
    """Search for the best videos of a prompt, and write them beside the base video."""
    request = with_video_defaults(request_of(ctx, {"model": DEFAULT}, clips=True), given)
    if given["dry_run"]:
        return plan_request(request, given["as_json"])
    return run_request(request, given["out"], given["as_json"])


def with_video_defaults(request: Any, given: dict[str, Any]) -> Any:
    """Defaults for videos where neither user nor toy model sets them: verifiers, and one video at a time."""
    from genscale.pipelines.loading import EMBEDDED

    known = EMBEDDED.get(request.model)
    if known is not None and known.frames is None:
        raise UsageError(f"model '{request.model}' makes images: use `genscale generate`, or {DEFAULT}.")
    if known is not None:
        return request
    more: dict[str, Any] = {} if request.verifiers else {"verifiers": VERIFIER}
    if not request.held_out and not given["held_out"]:
        steering = {*(more.get("verifiers") or request.verifiers), *request.select}
        more["held_out"] = tuple(name for name in HELD_OUT if not any(name in spec for spec in steering))
    if given.get("from_") is None:
        more |= {name: 1 for name in ("batch_size", "decode_batch") if given[name] is None}
    return replace(request, **more)
