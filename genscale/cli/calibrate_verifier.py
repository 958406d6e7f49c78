"""The command `genscale calibrate-verifier`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from genscale.cli import options
from genscale.cli.calibrate import CANDIDATES
from genscale.cli.request_options import print_json, prompts_of, request_fields
from genscale.runs.option_metadata import SEARCH

if TYPE_CHECKING:
    from genscale.results.verifier_calibration import VerifierCalibration

CALIBRATE = """
Examples:

  genscale calibrate-verifier "a red star" "two blue rings" "four red rings" "three blue stars" --judge shapes --seed 1 -o runs/p

  genscale calibrate-verifier --runs runs/p/candidates --verifier shapes_clip --judge shapes --right-at 1 --out runs/q

  genscale generate "a red star" --verifier calibrated:runs/p --budget "64images,p=0.9"
"""  # noqa: E501


Judge = Annotated[
    str | None,
    typer.Option(
        help="What labels the candidates: a verifier that is not calibrated. Right is a score of 0.5 or more, unless "
        "--right-at says otherwise.",
        metavar="NAME",
        rich_help_panel=SEARCH,
    ),
]
RightAt = Annotated[
    float | None,
    typer.Option(help="The judge's score from which on an image is right.", rich_help_panel=SEARCH),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Labels of your own: a CSV file with image,label or prompt,candidate,label (and run).",
        metavar="FILE",
        rich_help_panel=SEARCH,
    ),
]
Runs = Annotated[
    list[Path] | None,
    typer.Option(
        help="A folder of candidates, in place of prompts: of best_of_n with the verifiers. Repeatable.",
        metavar="DIR",
        rich_help_panel=SEARCH,
    ),
]
Candidates = Annotated[int, typer.Option(help="Images of each prompt.", rich_help_panel=SEARCH)]
Previews = Annotated[
    str,
    typer.Option(
        help="Fractions of the run at which previews are calibrated, or none.", rich_help_panel=SEARCH
    ),
]


FEW = 20  # prompts, below which the summary says so


@options.takes(*CANDIDATES, words=True)
def calibrate_verifier(
    ctx: typer.Context,
    judge: Judge = None,
    right_at: RightAt = None,
    labels: Labels = None,
    runs: Runs = None,
    candidates: Candidates = 8,
    previews: Previews = "0,0.25,0.5,0.75",
    trust_folder: options.Trust = False,
    **given: Any,
) -> int:
    """Map scores of verifiers to the probability that an image is right, by labelled candidates."""
    from genscale.cli.execute import INTERRUPTED, fail
    from genscale.commands.calibrate_verifier import Labelling, calibrate_verifier
    from genscale.runs.generate import RunInterrupted
    from genscale.runs.progress import Display, plain_warnings
    from genscale.runs.request import Request

    as_json, words = given["as_json"], given["words"] or []
    asked = prompts_of(words, given["prompts"]) if words or given["prompts"] or not runs else ()
    request = Request(prompts=asked, **request_fields(given))
    labelling, at = Labelling(judge, right_at, labels, trust_folder), _fractions(previews)
    try:
        with plain_warnings():
            folder, found = calibrate_verifier(
                request, runs or (), labelling, candidates, at, given["out"], Display(quiet=as_json)
            )
    except RunInterrupted as stop:
        kept = "." if stop.kept is None else ": give the same command again, with the same --out, to go on."
        return fail(f"interrupted while candidates were made{kept}", INTERRUPTED, as_json)
    if as_json:
        print_json({"folder": str(folder), **dict(found.about), "levels": found.quality()})
    else:
        _print(found, folder, Console())
    return 0


def _fractions(text: str) -> tuple[float, ...]:
    from genscale.errors import UsageError
    from genscale.plugins.options import convert

    try:
        return () if text.strip().lower() in ("none", "") else convert(text, tuple[float, ...])  # type: ignore[no-any-return]
    except ValueError:
        raise UsageError(
            f"--previews '{text}' cannot be read: write fractions, such as 0,0.25,0.5."
        ) from None


def _print(found: VerifierCalibration, folder: Path, console: Console) -> None:
    """Print the table of levels, and the files."""
    from rich.table import Table

    from genscale.commands.calibrate_verifier import PLOT
    from genscale.results.verifier_calibration_file import FILE

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("of the run", "AUC", "log loss", "ECE", *(m.verifier for m in found.members)):
        table.add_column(title, justify="right")
    for level in found.quality():
        area = "" if level["auc"] is None else f"{level['auc']:.3f}"
        how = [f"{c} × {w:.2f}" for c, w in zip(level["curves"], level["weights"], strict=True)]
        progress = level["progress"]
        at = "finished" if progress == 1 else f"{found.fraction(progress):.3g}"
        table.add_row(at, area, f"{level['log_loss']:.3f}", f"{level['ece']:.3f}", *how)
    console.print(table)
    about = found.about
    right, n = about["right"], about["candidates"]
    console.print(
        f"{n} candidates of {len(found.texts)} prompts, {right:.0%} right; measured on prompts that were held out",
        style="dim",
        highlight=False,
    )
    if len(found.texts) < FEW:
        few = f"{len(found.texts)} prompts are few: of 30 or more the numbers say more"
        console.print(few, style="dim", highlight=False)
    for name in (FILE, PLOT):
        console.print(f"{folder}/{name}", markup=False, highlight=False, soft_wrap=True)
    told = f"Use it: genscale generate ... --verifier calibrated:{folder}"
    console.print(told, markup=False, highlight=False, soft_wrap=True)
