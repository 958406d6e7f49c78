"""Commands about the folder of a run: `genscale resume`, `show`, `tree` and `rescore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from genscale.cli import compare, options
from genscale.cli.execute import run_request
from genscale.cli.request_options import print_json

SHOW = """
Examples:

  genscale show runs/star

  genscale show runs/star --json

It also works while a run is going on and after it was killed: it shows what is finished.
"""

RESCORE = """
Examples:

  genscale rescore runs/star --verifier shapes

  genscale rescore runs/star --verifier pickscore --verifier "aesthetic" --json

Nothing is generated: the latents in DIR/latents are decoded and scored.
"""


def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    trust_folder: options.Trust = False,
    as_json: options.Json = False,
) -> int:
    """Continue a run or a comparison that was interrupted or killed, from its folder."""
    from genscale.commands import compare_runs
    from genscale.runs.read_request import load_folder
    from genscale.runs.run_folder import refuse_incomplete
    from genscale.runs.trusted_code import refuse_code

    if compare_runs.holds(folder):
        from genscale.runs.progress import Display, plain_warnings

        with plain_warnings():
            return compare.print_result(
                compare_runs.resume(folder, Display(quiet=as_json), trust=trust_folder), as_json
            )
    request = load_folder(folder)
    refuse_incomplete(folder)
    refuse_code(request, folder, trust_folder)
    return run_request(request, folder, as_json)


def tree(folder: Annotated[Path, typer.Argument(metavar="DIR")], as_json: options.Json = False) -> int:
    """Draw the tree of a run's candidates, with their scores, as one image per prompt in its folder."""
    from genscale.commands.draw_tree import draw_trees

    files = draw_trees(folder)
    if as_json:
        print_json({"folder": str(folder), "files": files})
    else:
        for name in files:
            Console().print(f"{folder}/{name}", markup=False, highlight=False, soft_wrap=True)
    return 0


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Draw the Pareto front of several verifiers, too (pareto.png).")
    ] = False,
    trust_folder: options.Trust = False,
    as_json: options.Json = False,
) -> int:
    """Contact sheet, score-against-NFE curve, lineage and score table of a run, finished or not."""
    from genscale.cli.folder_tables import print_run
    from genscale.commands.show import show_folder
    from genscale.runs.progress import plain_warnings

    with plain_warnings():
        found = show_folder(folder, trust=trust_folder, pareto=pareto)
    if as_json:
        print_json(found)
    else:
        print_run(found, Console())
    return 0


def rescore(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    verifier: Annotated[
        list[str],
        typer.Option(
            help="What scores them: NAME, 'NAME(OPTION=VALUE)' or package.module:callable. Repeatable; each by itself.",
            metavar="NAME",
            autocompletion=options.complete_verifier,
        ),
    ],
    trust_folder: options.Trust = False,
    as_json: options.Json = False,
) -> int:
    """Score the candidates of a run with other verifiers: do they agree, and which would have won?"""
    from genscale.cli.folder_tables import print_rescored
    from genscale.commands import rescore as rescoring
    from genscale.runs.progress import Display, plain_warnings

    with plain_warnings():
        found = rescoring.rescore(folder, verifier, Display(quiet=as_json), trust=trust_folder)
    if as_json:
        print_json(found)
    else:
        print_rescored(found, Console())
    return 0
