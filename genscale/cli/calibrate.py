"""The command `genscale calibrate-steps`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from genscale.cli import options
from genscale.cli.generate import WRITTEN
from genscale.cli.request_options import print_json, prompts_of, request_fields
from genscale.runs.option_metadata import IMAGE, MODEL, RUN, SEARCH

CALIBRATE = """
Examples:

  genscale calibrate-steps "a red star" "two blue rings" --candidates 32

  genscale calibrate-steps --prompts prompts.txt --model owner/name --verifier clip --steps 28 --out runs/calibrated

  genscale calibrate-steps "a red star" "two blue rings" --candidates 8 --draft steps=6 --draft guidance=1

Then: `genscale generate ... --calibration runs/calibrated`.
"""


CANDIDATES = (
    options.extra("prompts"),
    options.of_request("verifiers"),
    options.of_request(
        panels=(IMAGE, MODEL, RUN),
        without=("images", "image", "mask_image", "control_image", *WRITTEN),
    ),
    options.extra("token", "out"),
)
"""Options of what makes the candidates of a calibration."""


@options.takes(*CANDIDATES, words=True)
def calibrate_steps(
    ctx: typer.Context,
    candidates: Annotated[int, typer.Option(help="Images of each prompt.", rich_help_panel=SEARCH)] = 16,
    threshold: Annotated[
        float,
        typer.Option(
            help="Mean rank correlation from which on previews are trusted.", rich_help_panel=SEARCH
        ),
    ] = 0.5,
    draft: Annotated[
        list[str] | None,
        typer.Option(
            help="A way to draft candidates, such as 'steps=6'; measured on the same candidates. Repeatable.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            help="With --draft: how probable it may be that the draft of the best candidate is beyond the margin.",
            rich_help_panel=SEARCH,
        ),
    ] = 0.1,
    **given: Any,
) -> int:
    """Measure from which step on scores of previews predict those of the finished images, and what drafts keep."""
    from genscale.cli import calibration_report
    from genscale.commands.calibrate import calibrate
    from genscale.runs.progress import Display, plain_warnings
    from genscale.runs.request import Request

    as_json = given["as_json"]
    request = Request(prompts=prompts_of(given["words"] or [], given["prompts"]), **request_fields(given))
    with plain_warnings():
        folder, found = calibrate(
            request, candidates, threshold, given["out"], Display(quiet=as_json), draft or (), alpha
        )
    if as_json:
        print_json({"folder": str(folder), **found.as_dict()})
    else:
        calibration_report.print_calibration(found, folder, Console())
    return 0
