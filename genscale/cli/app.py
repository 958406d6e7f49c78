"""The command line: its commands, most of them from the modules cli_*, and its exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from genscale.cli import calibrate, compare, demo, files, folders, generate, lists, video
from genscale.cli.execute import INTERRUPTED, REFUSED, fail
from genscale.errors import UsageError

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
    help="Spend more compute at inference to get better images and videos from pretrained diffusion and flow models.",
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

app.command(context_settings=WITH_SAMPLER, epilog=generate.GENERATE)(generate.generate)
app.command(context_settings=WITH_SAMPLER, epilog=video.VIDEO)(video.video)
app.command(context_settings=WITH_SAMPLER, epilog=generate.PLAN)(generate.plan)
app.command(epilog=compare.COMPARE)(compare.compare)
app.command(epilog=folders.SHOW)(folders.show)
app.command()(folders.tree)
app.command()(folders.resume)
app.command(epilog=folders.RESCORE)(folders.rescore)
app.command(epilog=demo.DEMO)(demo.demo)
app.command(epilog=files.SCORE)(files.score)
app.command(epilog=files.REPLAY)(files.replay)
app.command("calibrate-steps", epilog=calibrate.CALIBRATE)(calibrate.calibrate_steps)
app.command()(lists.samplers)
app.command()(lists.verifiers)
app.command()(lists.models)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, return its exit code; a refusal is one sentence on stderr and code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == [] or words in [[name] for name in NEED_WORDS]:
        words.append("--help")
    try:
        code = app(words, standalone_mode=False, prog_name="genscale")
        return code if isinstance(code, int) else 0
    except UsageError as error:
        return fail(str(error), REFUSED, "--json" in words)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted.", INTERRUPTED, "--json" in words)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors, whichever parser typer is built on
            return fail(error.format_message(), REFUSED, "--json" in words)
        raise
