"""The command `genscale compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from genscale.cli import option_groups, options
from genscale.cli.request_options import print_json, prompts_of, request_fields
from genscale.errors import UsageError

if TYPE_CHECKING:
    from genscale.results.comparison import Comparison

COMPARE = """
Examples:

  genscale compare "a red star" "a blue ring" --sampler best_of_n --sampler smc --budget 320nfe

  genscale compare --prompts prompts.txt --sampler "best_of_n(candidates=16)" --sampler zero_order --out runs/versus

  genscale compare --prompts prompts.txt --verifiers clip --verifiers "clip+aesthetic:0.1" --held-out pickscore

  genscale compare --prompts prompts.txt --sampler smc --budgets 160nfe --budgets 320nfe --budgets 640nfe

The same command again, or `genscale resume DIR`, goes on with a comparison that was killed.
"""

Samplers = Annotated[
    list[str] | None,
    typer.Option(
        "--sampler", help="NAME or 'NAME(OPTION=VALUE, ...)'; several are compared.", metavar="NAME",
        rich_help_panel=options.SEARCH, show_default=False, autocompletion=options.complete_sampler,
    ),
]  # fmt: skip
VerifierSets = Annotated[
    list[str] | None,
    typer.Option(
        "--verifiers", help="What steers one entry, several joined by +; several are compared.", metavar="NAMES",
        rich_help_panel=options.SEARCH, show_default=False, autocompletion=options.complete_verifier,
    ),
]  # fmt: skip
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budgets", help="The budget of one entry, such as 320nfe; several are compared.", metavar="LIMITS",
        rich_help_panel=options.SEARCH, show_default=False,
    ),
]  # fmt: skip


@option_groups.takes(
    option_groups.PROMPT,
    {"sampler": Samplers, "verifiers": VerifierSets, "budgets": Budgets},
    {
        name: option_groups.STEER[name]
        for name in ("verifier", "select", "held_out", "per_frame", "budget", "boxes", "mix", "guide")
    },
    option_groups.DRAW,
    option_groups.INPUTS,
    option_groups.LOAD,
    {"metadata": options.Metadata, "out": options.Out},
    option_groups.JSON,
    without=["images"],
)
def compare(ctx: typer.Context, **given: Any) -> int:
    """Compare samplers, verifiers or budgets on the same prompts and seed at equal cost: grid, table, curves."""
    from genscale.commands import compare_runs
    from genscale.commands.compare_entries import entries
    from genscale.runs.progress import Display, plain_warnings
    from genscale.runs.request import Request

    if given["verifier"] and len(given["verifiers"] or []) > 1:
        raise UsageError("--verifier steers all entries, --verifiers tells them apart: give one of the two.")
    shared = {name: value for name, value in given.items() if name != "sampler"}
    request = Request(prompts=prompts_of(given["words"] or [], given["prompts"]), **request_fields(shared))
    axis, found = entries(request, *(given[name] or [] for name in ("sampler", "verifiers", "budgets")))
    with plain_warnings():
        compared = compare_runs.compare(axis, found, given["out"], Display(quiet=given["as_json"]))
        return told(compared, given["as_json"])


def told(found: Comparison, as_json: bool) -> int:
    """Print a comparison."""
    from genscale.cli import comparison_table

    if as_json:
        print_json(found.as_dict())
    else:
        comparison_table.show(found, Console())
    return 0
