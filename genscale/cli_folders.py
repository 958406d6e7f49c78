"""Commands about the folder of a run: `genscale show` and `genscale rescore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from genscale import cli_options as o
from genscale.cli_words import print_json

SHOW = """
Examples:

  genscale show runs/star

  genscale show runs/star --json

Also of a run that goes on, or was killed: what is finished is shown.
"""

RESCORE = """
Examples:

  genscale rescore runs/star --verifier shapes

  genscale rescore runs/star --verifier pickscore --verifier "aesthetic" --json

Nothing is generated: the latents in DIR/latents are decoded and judged.
"""


def show(folder: Annotated[Path, typer.Argument(metavar="DIR")], as_json: o.Json = False) -> int:
    """Contact sheet, score-against-NFE curve, lineage and a table of a run, finished or not."""
    from genscale import showing
    from genscale.folder_tables import show_run
    from genscale.progress import plain_warnings

    with plain_warnings():
        found = showing.show(folder)
    if as_json:
        print_json(found)
    else:
        show_run(found, Console())
    return 0


def rescore(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    verifier: Annotated[
        list[str],
        typer.Option(
            help="Who judges: NAME, 'NAME(OPTION=VALUE)' or package.module:callable. Repeatable; each by itself.",
            metavar="NAME",
            autocompletion=o.complete_verifier,
        ),
    ],
    as_json: o.Json = False,
) -> int:
    """Have other verifiers judge what a run kept: do they agree, and who would have won?"""
    from genscale import rescoring
    from genscale.folder_tables import show_rescored
    from genscale.progress import Display, plain_warnings

    with plain_warnings():
        found = rescoring.rescore(folder, verifier, Display(quiet=as_json))
    if as_json:
        print_json(found)
    else:
        show_rescored(found, Console())
    return 0
