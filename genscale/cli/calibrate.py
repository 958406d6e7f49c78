"""The command `genscale calibrate-steps`."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console

from genscale.cli import option_groups, options
from genscale.cli.request_options import print_json, prompts_of, request_fields

CALIBRATE = """
Examples:

  genscale calibrate-steps "a red star" "two blue rings" --candidates 32

  genscale calibrate-steps --prompts prompts.txt --model owner/name --verifier clip --steps 28 --out runs/calibrated

Then: `genscale generate ... --calibration runs/calibrated`.
"""


@option_groups.takes(
    option_groups.PROMPT,
    {"verifier": options.Verifiers, "candidates": options.Candidates, "threshold": options.Threshold},
    option_groups.DRAW,
    option_groups.LOAD,
    {"out": options.Fresh},
    option_groups.JSON,
)
def calibrate_steps(ctx: typer.Context, **given: Any) -> int:
    """Measure from which step on scores of previews predict those of the finished images."""
    from genscale.cli import calibration_report
    from genscale.commands.calibrate import calibrate
    from genscale.runs.progress import Display, plain_warnings
    from genscale.runs.request import Request

    as_json = given["as_json"]
    request = Request(prompts=prompts_of(given["words"] or [], given["prompts"]), **request_fields(given))
    with plain_warnings():
        folder, found = calibrate(
            request, given["candidates"], given["threshold"], given["out"], Display(quiet=as_json)
        )
    if as_json:
        print_json({"folder": str(folder), **found.as_dict()})
    else:
        calibration_report.show(found, folder, Console())
    return 0
