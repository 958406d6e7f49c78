"""The command `genscale train-preview`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from genscale.cli import options
from genscale.cli.request_options import print_json
from genscale.runs.option_metadata import RUN, SEARCH

if TYPE_CHECKING:
    from genscale.verifiers.learned_preview_file import Learned

TRAIN = """
Examples:

  genscale train-preview runs/p/candidates --verifier shapes_clip --out runs/early

  genscale generate "a red star" --verifier learned_preview:runs/early

Nothing is generated: the previews and latents in the folders are decoded and scored.
"""


def train_preview(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs of best_of_n with --previews.")],
    verifier: Annotated[
        str,
        typer.Option(
            help="Whose final score is predicted: a registered verifier, NAME or 'NAME(OPTION=VALUE)'.",
            metavar="NAME",
            autocompletion=options.complete_verifier,
            rich_help_panel=SEARCH,
        ),
    ],
    tune: Annotated[
        int,
        typer.Option(
            help="Also tune a copy of the verifier's network for each noise level, in so many passes.",
            metavar="PASSES",
            rich_help_panel=SEARCH,
        ),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of what is learned.", metavar="DIR", rich_help_panel=RUN),
    ] = None,
    trust_folder: options.Trust = False,
    as_json: options.Json = False,
) -> int:
    """Learn from runs what previews tell about the final score of a verifier."""
    from genscale.commands import train_preview as training
    from genscale.runs.progress import Display, plain_warnings

    with plain_warnings():
        folder, found = training.train_preview(
            runs, verifier, tune, out, Display(quiet=as_json), trust=trust_folder
        )
    if as_json:
        print_json({"folder": str(folder), **dict(found.about)})
    else:
        _print(found, folder, Console())
    return 0


def _print(found: Learned, folder: Path, console: Console) -> None:
    """Print the table of levels, and how the folder is used."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("model calls", "rho, own score", "rho, learned", "explained"):
        table.add_column(title, justify="right")
    for level in found.about["levels"]:
        cells = ["" if level[k] is None else f"{level[k]:.2f}" for k in ("plain", "learned", "explained")]
        table.add_row(f"{round(level['progress'] * found.steps)} of {found.steps}", *cells)
    console.print(table)
    n, prompts = found.about["candidates"], found.about["prompts"]
    console.print(
        f"{n} candidates of {prompts} prompts; measured on prompts that were held out",
        style="dim",
        highlight=False,
    )
    told = f"Use it: genscale generate ... --verifier learned_preview:{folder}"
    console.print(told, markup=False, highlight=False, soft_wrap=True)
