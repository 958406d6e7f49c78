"""The command `genscale video`: searches over videos."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer

from genscale.cli import options
from genscale.cli.execute import carry_out, tell_plan
from genscale.cli.generate import SEARCH, WRITE
from genscale.cli.request_options import request_of
from genscale.errors import UsageError

VIDEO = """
Examples:

  genscale video "a red circle moving left"

  genscale video "a red circle moving left and a blue circle moving up" --candidates 8 --seed 1 --out runs/circles

  genscale video "a dog runs" --model owner/name --frames 49 --verifier pickscore --verifier dynamic_degree:2

  genscale video --prompts prompts.txt --model owner/name --sampler successive_halving --offload model --vae-tiling

Of each prompt: best.mp4, best.gif and best.png (the first frame), the same of the base clip, and contact.png, videos
over time. A judge of images sees --per-frame frames; temporal_consistency and dynamic_degree see the video.
"""

DEFAULT = "shapes-video"
VERIFIER, REPORT = ("clip",), ("temporal_consistency", "dynamic_degree")
"""For a model that brings no judges: what steers, and what tells whether videos stand still or fall apart."""


@options.takes(*SEARCH, *WRITE, words=True)
def video(ctx: typer.Context, **given: Any) -> int:
    """Search for the best videos of a prompt, and write them beside the base clip."""
    request = for_clips(request_of(ctx, {"model": DEFAULT}), given)
    if given["dry_run"]:
        return tell_plan(request, given["as_json"])
    return carry_out(request, given["out"], given["as_json"])


def for_clips(request: Any, given: dict[str, Any]) -> Any:
    """With what goes well with videos where neither user nor toy model says: judges, one video at once."""
    from genscale.pipelines.loading import EMBEDDED

    known = EMBEDDED.get(request.model)
    if known is not None and known.frames is None:
        raise UsageError(f"model '{request.model}' makes images: use `genscale generate`, or {DEFAULT}.")
    request = replace(request, clips=True)
    if known is not None:
        return request
    more: dict[str, Any] = {} if request.verifiers else {"verifiers": VERIFIER}
    if not request.held_out and not given["held_out"]:
        steering = {*(more.get("verifiers") or request.verifiers), *request.select}
        more["held_out"] = tuple(name for name in REPORT if not any(name in spec for spec in steering))
    if given["from_"] is None:
        more |= {name: 1 for name in ("batch_size", "decode_batch") if given[name] is None}
    return replace(request, **more)
