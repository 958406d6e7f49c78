"""Commands that tell before or beside a search: `genscale plan` and `genscale compare`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from genscale import cli_options as o
from genscale.cli_words import print_json, prompts_of, request_of
from genscale.errors import Refusal

PLAN = """
Examples:

  genscale plan "a red star" --sampler zero_order --rounds 8

  genscale plan --prompts prompts.txt --budget 640nfe --json

All options of `genscale generate`; nothing is generated or written.
"""

COMPARE = """
Examples:

  genscale compare "a red star" "a blue ring" --sampler best_of_n --sampler smc --budget 320nfe

  genscale compare --prompts prompts.txt --sampler "best_of_n(candidates=16)" --sampler zero_order --out runs/versus

  genscale compare --prompts prompts.txt --verifiers clip --verifiers "clip+aesthetic:0.1" --report pickscore

  genscale compare --prompts prompts.txt --sampler smc --budgets 160nfe --budgets 320nfe --budgets 640nfe

The same command again, or `genscale resume DIR`, goes on with a comparison that was killed.
"""

Samplers = Annotated[
    list[str] | None,
    typer.Option(
        "--sampler", help="NAME or 'NAME(OPTION=VALUE, ...)'; several are compared.", metavar="NAME",
        rich_help_panel=o.SEARCH, show_default=False, autocompletion=o.complete_sampler,
    ),
]  # fmt: skip
VerifierSets = Annotated[
    list[str] | None,
    typer.Option(
        "--verifiers", help="What steers one entry, several joined by +; several are compared.", metavar="NAMES",
        rich_help_panel=o.SEARCH, show_default=False, autocompletion=o.complete_verifier,
    ),
]  # fmt: skip
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budgets", help="The budget of one entry, such as 320nfe; several are compared.", metavar="LIMITS",
        rich_help_panel=o.SEARCH, show_default=False,
    ),
]  # fmt: skip


def plan(
    ctx: typer.Context, words: o.Words = None, prompts: o.Prompts = None, sampler: o.Sampler = None,
    set_: o.Set = None, calibration: o.Calibration = None, verifier: o.Verifiers = None,
    select: o.Select = None, report: o.Report = None, ensemble: o.Ensemble = None, budget: o.Limit = None,
    stop: o.Stop = None, boxes: o.Boxes = None, mix: o.Mix = None, guide: o.Guide = None, negative: o.Negative = None,
    steps: o.Steps = None, guidance: o.Guidance = None,
    seed: o.Seed = None, size: o.Size = None, frames: o.Frames = None, images: o.Images = None,
    image: o.Image = None, mask_image: o.Mask = None, control_image: o.Control = None, pipeline_args: o.Extra = None,
    model: o.Model = None, dtype: o.Dtype = None, device: o.Device = None, attention: o.Attention = None,
    offload: o.Offload = None, compile: o.Compile = None, lora: o.Lora = None, variant: o.Variant = None,
    revision: o.Revision = None, trust_remote_code: o.Trust = None, batch_size: o.Batch = None,
    from_: o.From = None, as_json: o.Json = False,
) -> int:  # fmt: skip
    """What a search would cost, before anything is generated; with the options of `generate`."""
    flags = [flag for parameter in ctx.command.params for flag in parameter.opts if flag.startswith("--")]
    return planned(request_of(ctx.params, flags), as_json)


def planned(request: object, as_json: bool) -> int:
    """Print the plan of a request."""
    from genscale import generation
    from genscale.progress import plain_warnings
    from genscale.summary import show_plan

    with plain_warnings():
        found = generation.plan(request)  # type: ignore[arg-type]
    if as_json:
        print_json(found)
    else:
        show_plan(found, Console())
    return 0


def compare(
    ctx: typer.Context, words: o.Words = None, prompts: o.Prompts = None, sampler: Samplers = None,
    verifiers: VerifierSets = None, budgets: Budgets = None, verifier: o.Verifiers = None,
    select: o.Select = None, report: o.Report = None, budget: o.Limit = None, boxes: o.Boxes = None,
    mix: o.Mix = None, guide: o.Guide = None, negative: o.Negative = None,
    steps: o.Steps = None, guidance: o.Guidance = None, seed: o.Seed = None, size: o.Size = None,
    frames: o.Frames = None, image: o.Image = None, mask_image: o.Mask = None, control_image: o.Control = None,
    pipeline_args: o.Extra = None, model: o.Model = None, dtype: o.Dtype = None,
    device: o.Device = None, attention: o.Attention = None, offload: o.Offload = None,
    compile: o.Compile = None, lora: o.Lora = None, variant: o.Variant = None, revision: o.Revision = None,
    trust_remote_code: o.Trust = None, batch_size: o.Batch = None, metadata: o.Metadata = None,
    out: o.Out = None, as_json: o.Json = False,
) -> int:  # fmt: skip
    """Compare samplers, verifiers or budgets on the same prompts and seed at equal cost: grid, table, curves."""
    from genscale import comparing
    from genscale.entries import entries
    from genscale.progress import Display, plain_warnings
    from genscale.request import Request

    if verifier and verifiers and len(verifiers) > 1:
        raise Refusal("--verifier steers all entries, --verifiers tells them apart: give one of the two.")
    given = {name: value for name, value in ctx.params.items() if name != "sampler"}
    request = Request(prompts=prompts_of(words or [], prompts), **o.request_fields(given))
    axis, found = entries(request, sampler or [], verifiers or [], budgets or [])
    with plain_warnings():
        return told(comparing.compare(axis, found, out, Display(quiet=as_json)), as_json)


def told(found: object, as_json: bool) -> int:
    """Print a comparison."""
    from genscale import comparison_table

    if as_json:
        print_json(found.as_dict())  # type: ignore[attr-defined]
    else:
        comparison_table.show(found, Console())  # type: ignore[arg-type]
    return 0
