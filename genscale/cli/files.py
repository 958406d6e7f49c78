"""Commands about files of results: `genscale replay` and `genscale score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from genscale.cli import options
from genscale.cli.execute import DIFFERS
from genscale.cli.request_options import print_json

REPLAY = """
Examples:

  genscale replay runs/star/best.png

  genscale replay best.png --out again.png --device cpu --json

Exit code 0: the content is the same; 3: it differs, and it says how much.
"""

SCORE = """
Examples:

  genscale score a.png b.png --prompt "a red star" --verifier clip --verifier aesthetic

  genscale score runs/star/best.png runs/star/base.png

  genscale score clip.mp4 --prompt "a dog runs" --json

  genscale score a.wav b.flac --prompt "a dog barks" --verifier clap --verifier clipping
"""


@options.takes(options.of_request("device", "trust_remote_code"))
def replay(
    image: Annotated[Path, typer.Argument(metavar="FILE", help="An image, video or sound made by genscale.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write to (NAME-replay.png beside it).", metavar="FILE")
    ] = None,
    **given: Any,
) -> int:
    """Make an image, video or sound again from its metadata, and report whether its content is the same."""
    from genscale.commands import replay as replaying
    from genscale.runs.progress import Display, plain_warnings

    with plain_warnings():
        display = Display(quiet=given["as_json"])
        trust = bool(given["trust_remote_code"])
        found = replaying.replay(image, out, display, device=given["device"], trust=trust)
    if given["as_json"]:
        print_json(found)
    else:
        from genscale.cli.summary_tables import print_replay

        print_replay(found, Console())
    return 0 if found["same"] else DIFFERS


def score(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...")],
    prompt: Annotated[
        str | None,
        typer.Option(help="Prompt to score by (that in each file's metadata).", metavar="TEXT"),
    ] = None,
    verifier: Annotated[
        list[str] | None,
        typer.Option(
            help="What scores them: NAME, 'NAME(OPTION=VALUE)' or package.module:callable (those in the metadata, else "
            "clip). Repeatable.",
            metavar="NAME",
            autocompletion=options.complete_verifier,
        ),
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Score existing images, videos and sounds."""
    from genscale.commands import score_files
    from genscale.runs.progress import plain_warnings

    with plain_warnings():
        rows = score_files.score(files, prompt, verifier or [])
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        score_files.print_scores(rows, Console())
    return 0
