"""The command line: its commands, most of them from the modules cli_*, and its exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from genscale.cli import calibrate as cli_calibrate
from genscale.cli import compare as cli_compare
from genscale.cli import demo as cli_demo
from genscale.cli import folders as cli_folders
from genscale.cli import generate as cli_generate
from genscale.cli import lists as cli_lists
from genscale.cli import files as cli_pictures
from genscale.cli import video as cli_video
from genscale.cli.execute import INTERRUPTED, REFUSED, fail
from genscale.errors import Refusal

NEED_WORDS = (
    "generate",
    "video",
    "plan",
    "compare",
    "resume",
    "tree",
    "show",
    "replay",
    "score",
    "rescore",
    "calibrate-steps",
)
"""Commands that are explained where nothing is said after their name."""

_CODES = """
Exit codes:

  0  done

  1  `replay`: the pixels are not the same

  2  refused, with one sentence on stderr

  130  interrupted: what was done is kept, `genscale resume DIR` goes on

With --json, stdout is one JSON value: the result, or {"error": SENTENCE}.
"""

app = typer.Typer(
    help="Spend more compute at inference to get better pictures and clips from pretrained diffusion and flow models.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_CODES,
)


def _version(asked: bool) -> None:
    if asked:
        from genscale import __version__

        print(f"genscale {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


WITH_SAMPLER = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Settings of a command that takes the sampler's options by name."""

app.command(context_settings=WITH_SAMPLER, epilog=cli_generate.GENERATE)(cli_generate.generate)
app.command(context_settings=WITH_SAMPLER, epilog=cli_video.VIDEO)(cli_video.video)
app.command(context_settings=WITH_SAMPLER, epilog=cli_generate.PLAN)(cli_generate.plan)
app.command(epilog=cli_compare.COMPARE)(cli_compare.compare)
app.command(epilog=cli_folders.SHOW)(cli_folders.show)
app.command()(cli_folders.tree)
app.command()(cli_folders.resume)
app.command(epilog=cli_folders.RESCORE)(cli_folders.rescore)
app.command(epilog=cli_demo.DEMO)(cli_demo.demo)
app.command(epilog=cli_pictures.SCORE)(cli_pictures.score)
app.command(epilog=cli_pictures.REPLAY)(cli_pictures.replay)
app.command("calibrate-steps", epilog=cli_calibrate.CALIBRATE)(cli_calibrate.calibrate_steps)
app.command()(cli_lists.samplers)
app.command()(cli_lists.verifiers)
app.command()(cli_lists.models)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, return its exit code; a refusal is one sentence on stderr and code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == [] or words in [[name] for name in NEED_WORDS]:
        words.append("--help")
    try:
        code = app(words, standalone_mode=False, prog_name="genscale")
        return code if isinstance(code, int) else 0
    except Refusal as error:
        return fail(str(error), REFUSED, "--json" in words)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted.", INTERRUPTED, "--json" in words)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors, whichever parser typer is built on
            return fail(error.format_message(), REFUSED, "--json" in words)
        raise
