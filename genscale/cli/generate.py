"""Commands that search: `genscale generate`, and `genscale plan`, which only prints what it would cost."""

from __future__ import annotations

from typing import Any

import typer

from genscale.cli import options
from genscale.cli.execute import plan_request, run_request
from genscale.cli.request_options import request_of

GENERATE = """
Examples:

  genscale generate "a red star left of a blue ring"

  genscale generate "a red star" --budget 32images --seed 1 --out runs/star

  genscale generate --prompts prompts.txt --sampler zero_order --neighbours 4 --rounds 8

  genscale generate "an owl" --model owner/name --verifier clip --verifier aesthetic:0.5 --steps 28

  genscale generate --from runs/star/best.png --candidates 64

  genscale generate "a red star" --lora tuned.safetensors --mix base:-0.6 --guide "cfg(3, 0.1, 0.8)"

The sampler's own options are given by name, as --neighbours above: `genscale samplers NAME` lists them.
"""

PLAN = """
Examples:

  genscale plan "a red star" --sampler zero_order --rounds 8

  genscale plan --prompts prompts.txt --budget 640nfe --json

All options of `genscale generate`; nothing is generated or written.
"""

WRITTEN = ("preview", "metadata", "name", "layout")
"""Options of what is written alone."""

SEARCH = (
    options.extra("prompts"),
    options.of_request("sampler"),
    options.extra("search_size", "set_", "calibration"),
    options.of_request(without=WRITTEN),
    options.extra("token", "from_"),
)
"""Options of every command that searches."""

WRITE = options.of_request(*WRITTEN), options.extra("out", "dry_run")


@options.takes(*SEARCH, *WRITE, words=True)
def generate(ctx: typer.Context, **given: Any) -> int:
    """Search for the best images of a prompt, and write them beside the base image."""
    request = request_of(ctx)
    if given["dry_run"]:
        return plan_request(request, given["as_json"])
    return run_request(request, given["out"], given["as_json"])


@options.takes(*SEARCH, words=True)
def plan(ctx: typer.Context, **given: Any) -> int:
    """Print what a search would cost, without generating anything; takes the options of `generate`."""
    return plan_request(request_of(ctx), given["as_json"])
