"""The command `genscale calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from genscale.cli import options
from genscale.cli.calibrate import CANDIDATES
from genscale.cli.request_options import print_json, prompts_of, request_fields
from genscale.runs.option_metadata import SEARCH

if TYPE_CHECKING:
    from genscale.results.score_calibration import ScoreCalibration

CALIBRATE = """
Examples:

  genscale calibrate "a red star" "two blue rings" --verifier shapes_clip --verifier shapes_attributes -o runs/scales

  genscale generate "a red star" --verifier "measured(folder=runs/scales,verifier=shapes_clip)" --candidates 8
"""


@options.takes(*CANDIDATES, words=True)
def calibrate(
    ctx: typer.Context,
    candidates: Annotated[int, typer.Option(help="Images of each prompt.", rich_help_panel=SEARCH)] = 8,
    **given: Any,
) -> int:
    """Measure verifiers on your prompts: mean and spread of their scores, their noise, and how far they agree."""
    from genscale.commands.calibrate_scores import calibrate_scores
    from genscale.runs.progress import Display, plain_warnings
    from genscale.runs.request import Request

    as_json = given["as_json"]
    request = Request(prompts=prompts_of(given["words"] or [], given["prompts"]), **request_fields(given))
    with plain_warnings():
        folder, found = calibrate_scores(request, candidates, given["out"], Display(quiet=as_json))
    if as_json:
        import json

        print_json({"folder": str(folder), **json.loads(found.text())})
    else:
        _print(found, folder, Console())
    return 0


def _print(found: ScoreCalibration, folder: Path, console: Console) -> None:
    """Print the verifiers, how far each two agree, and how the folder is used."""
    from rich.table import Table

    from genscale.results.score_calibration import FILE

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column("verifier")
    for title in ("mean", "sd", "within", "noise", "noise²/within²"):
        table.add_column(title, justify="right")
    for s in found.scores:
        share = "" if s.noise_share is None else f"{s.noise_share:.1%}"
        table.add_row(Text(s.name), *map(_number, (s.mean, s.sd, s.within, s.noise)), share)
    console.print(table)
    for pair in found.agreement:
        rho = "cannot be ranked" if pair.rho is None else f"rank correlation {pair.rho:.2f}"
        between = "" if pair.low is None else f" (95 % interval {pair.low:.2f} to {pair.high:.2f})"
        console.print(
            f"{pair.first} and {pair.second}: {rho}{between}", markup=False, highlight=False, soft_wrap=True
        )
    n = found.about["candidates"]
    told = f"{n} candidates of each of {len(found.texts)} prompts; noise: sd under changes that do not matter"
    console.print(told, style="dim", highlight=False)
    console.print(f"{folder}/{FILE}", markup=False, highlight=False, soft_wrap=True)
    one = f"measured:{folder}"
    if len(found.scores) > 1:
        one = f'"measured(folder={folder},verifier={found.scores[0].name})"'
    console.print(
        f"Use it: genscale generate ... --verifier {one}", markup=False, highlight=False, soft_wrap=True
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
