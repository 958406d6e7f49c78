"""The command line: its commands and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from genscale.cli import (
    audio,
    bench,
    calibrate,
    calibrate_scores,
    calibrate_verifier,
    compare,
    demo,
    files,
    folders,
    generate,
    lists,
    train_preview,
    video,
)
from genscale.cli.commands import Command, explained
from genscale.cli.execute import FAILED, INTERRUPTED, REFUSED, fail, of_stdout, printed, unforeseen, unprinted
from genscale.errors import UsageError

NEED_WORDS = (
    "generate",
    "video",
    "audio",
    "plan",
    "compare",
    "bench",
    "resume",
    "tree",
    "show",
    "replay",
    "score",
    "rescore",
    "calibrate",
    "calibrate-steps",
    "calibrate-verifier",
    "train-preview",
)
"""Commands that print their help when nothing follows their name."""

_CODES = """
Exit codes:

  0  done

  1  an error that was not foreseen: the sentence on stderr names the file of its traceback

  2  refused, with one sentence on stderr

  3  `replay`: the content differs

  130  interrupted: what was done is kept, `genscale resume DIR` continues

With --json, stdout is one JSON value: the result, or {"error": SENTENCE}.
"""

app = typer.Typer(
    help="Spend more compute at inference to get better images, videos and sounds from pretrained diffusion and flow "
    "models.",
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


def _command(
    function: Callable[..., int], name: str | None = None, epilog: str | None = None, **settings: Any
) -> None:
    app.command(name, cls=Command, epilog=epilog, **settings)(function)


_command(generate.generate, epilog=generate.GENERATE, context_settings=WITH_SAMPLER)
_command(video.video, epilog=video.VIDEO, context_settings=WITH_SAMPLER)
_command(audio.audio, epilog=audio.AUDIO, context_settings=WITH_SAMPLER)
_command(generate.plan, epilog=generate.PLAN, context_settings=WITH_SAMPLER)
_command(compare.compare, epilog=compare.COMPARE)
_command(bench.bench, epilog=bench.BENCH, context_settings=WITH_SAMPLER)
_command(folders.show, epilog=folders.SHOW)
_command(folders.tree)
_command(folders.resume)
_command(folders.rescore, epilog=folders.RESCORE)
_command(demo.demo, epilog=demo.DEMO)
_command(files.score, epilog=files.SCORE)
_command(files.replay, epilog=files.REPLAY)
_command(calibrate_scores.calibrate, epilog=calibrate_scores.CALIBRATE)
_command(calibrate.calibrate_steps, "calibrate-steps", epilog=calibrate.CALIBRATE)
_command(calibrate_verifier.calibrate_verifier, "calibrate-verifier", epilog=calibrate_verifier.CALIBRATE)
_command(train_preview.train_preview, "train-preview", epilog=train_preview.TRAIN)
_command(lists.samplers)
_command(lists.verifiers)
_command(lists.models)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, return its exit code; a refusal is one sentence on stderr and code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == [] or words in [[name] for name in NEED_WORDS]:
        words.append("--help")
    try:
        code = app(words, standalone_mode=False, prog_name="genscale")
        lost = printed()
        return unprinted(lost) if lost else code if isinstance(code, int) else 0
    except UsageError as error:
        return fail(str(error), REFUSED, "--json" in words)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted.", INTERRUPTED, "--json" in words)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors, whichever parser typer is built on
            return fail(explained(error), REFUSED, "--json" in words)
        if of_stdout(error):
            return unprinted(error)
        if isinstance(error, OSError) and error.filename is not None:  # a name that is too long, a full disk
            return fail(f"'{error.filename}' cannot be used: {error.strerror}.", REFUSED, "--json" in words)
        return fail(unforeseen(error), FAILED, "--json" in words)
