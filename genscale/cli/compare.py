"""The command `genscale compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from genscale.cli import options
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

The same command again, or `genscale resume DIR`, continues a comparison that was interrupted.
"""

_LEFT_OUT = ("sampler", "ensemble", "stop", "images", "layout")
"""Options that a comparison does not take: --sampler names its entries here, and all runs spend the same."""


@options.takes(
    options.extra("prompts", "sampler_specs", "verifier_sets", "budgets"),
    options.of_request(without=_LEFT_OUT),
    options.extra("token", "out"),
    words=True,
)
def compare(ctx: typer.Context, **given: Any) -> int:
    """Compare samplers, verifiers or budgets on the same prompts and seed at equal cost: grid, table, curves."""
    from genscale.commands import compare_runs
    from genscale.commands.compare_entries import entries
    from genscale.runs.progress import Display, plain_warnings
    from genscale.runs.request import Request

    if given["verifiers"] and len(given["verifier_sets"] or []) > 1:
        raise UsageError("--verifier steers all entries, --verifiers only one each: give one of the two.")
    request = Request(prompts=prompts_of(given["words"] or [], given["prompts"]), **request_fields(given))
    axes = (given[name] or [] for name in ("sampler_specs", "verifier_sets", "budgets"))
    axis, found = entries(request, *axes)
    with plain_warnings():
        compared = compare_runs.compare(axis, found, given["out"], Display(quiet=given["as_json"]))
        return print_result(compared, given["as_json"])


def print_result(found: Comparison, as_json: bool) -> int:
    """Print a comparison; return the exit code."""
    from genscale.cli import comparison_table

    if as_json:
        print_json(found.as_dict())
    else:
        comparison_table.print_comparison(found, Console())
    return 0
