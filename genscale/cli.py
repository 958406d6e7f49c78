"""The command line: its commands, most of them from the modules cli_*, and its exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from genscale import cli_compare, cli_demo, cli_folders, cli_pictures
from genscale import cli_options as o
from genscale.cli_words import print_json, prompts_of, request_of
from genscale.errors import Refusal

INTERRUPTED = 130
NEED_WORDS = (
    "generate",
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
    help="Spend more compute at inference to get better pictures from pretrained diffusion and flow models.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_CODES,
)

_EXAMPLES = """
Examples:

  genscale generate "a red star left of a blue ring"

  genscale generate "a red star" --budget 640nfe --seed 1 --out runs/star

  genscale generate --prompts prompts.txt --sampler zero_order --neighbours 4 --rounds 8

  genscale generate "an owl" --model owner/name --verifier clip --verifier aesthetic:0.5 --steps 28

  genscale generate --from runs/star/best.png --candidates 64

  genscale generate "a red star" --lora tuned.safetensors --mix base:-0.6 --guide "cfg(3, 0.1, 0.8)"

Options of the sampler are given by name: `genscale samplers best_of_n` lists them.
"""


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


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog=_EXAMPLES,
)
def generate(
    ctx: typer.Context, words: o.Words = None, prompts: o.Prompts = None, sampler: o.Sampler = None,
    set_: o.Set = None, calibration: o.Calibration = None, verifier: o.Verifiers = None,
    select: o.Select = None, report: o.Report = None, ensemble: o.Ensemble = None, budget: o.Limit = None,
    stop: o.Stop = None, boxes: o.Boxes = None, mix: o.Mix = None, guide: o.Guide = None, negative: o.Negative = None,
    steps: o.Steps = None, guidance: o.Guidance = None,
    seed: o.Seed = None, size: o.Size = None, frames: o.Frames = None, images: o.Images = None,
    image: o.Image = None, mask_image: o.Mask = None, control_image: o.Control = None, pipeline_args: o.Extra = None,
    model: o.Model = None, dtype: o.Dtype = None, device: o.Device = None, attention: o.Attention = None,
    offload: o.Offload = None, compile: o.Compile = None, lora: o.Lora = None, variant: o.Variant = None,
    revision: o.Revision = None, trust_remote_code: o.Trust = None, batch_size: o.Batch = None,
    from_: o.From = None, out: o.Out = None, metadata: o.Metadata = None, dry_run: o.DryRun = False,
    as_json: o.Json = False,
) -> int:  # fmt: skip
    """Search for the best pictures of a prompt, and write them beside the base picture."""
    flags = [flag for parameter in ctx.command.params for flag in parameter.opts if flag.startswith("--")]
    request = request_of(ctx.params, flags)
    if dry_run:
        return cli_compare.planned(request, as_json)
    return _run(request, out, as_json)


@app.command()
def resume(folder: Annotated[Path, typer.Argument(metavar="DIR")], as_json: o.Json = False) -> int:
    """Go on with a run or a comparison that was killed or interrupted, from its folder."""
    from genscale import comparing
    from genscale.request import load_folder

    if comparing.holds(folder):
        from genscale.progress import Display, plain_warnings

        with plain_warnings():
            return cli_compare.told(comparing.resume(folder, Display(quiet=as_json)), as_json)
    return _run(load_folder(folder), folder, as_json)


@app.command()
def tree(folder: Annotated[Path, typer.Argument(metavar="DIR")], as_json: o.Json = False) -> int:
    """Draw who came from whom in a run, as a picture in its folder: one a prompt."""
    from genscale.drawing import draw_trees

    files = draw_trees(folder)
    if as_json:
        print_json({"folder": str(folder), "files": files})
    else:
        for name in files:
            Console().print(f"{folder}/{name}", markup=False, highlight=False, soft_wrap=True)
    return 0


@app.command("calibrate-steps")
def calibrate_steps(
    ctx: typer.Context, words: o.Words = None, prompts: o.Prompts = None, verifier: o.Verifiers = None,
    candidates: o.Candidates = 16, threshold: o.Threshold = 0.5, negative: o.Negative = None,
    steps: o.Steps = None, guidance: o.Guidance = None, seed: o.Seed = None, size: o.Size = None,
    frames: o.Frames = None, pipeline_args: o.Extra = None, model: o.Model = None, dtype: o.Dtype = None,
    device: o.Device = None, attention: o.Attention = None, offload: o.Offload = None,
    compile: o.Compile = None, lora: o.Lora = None, variant: o.Variant = None, revision: o.Revision = None,
    trust_remote_code: o.Trust = None, batch_size: o.Batch = None, out: o.Fresh = None,
    as_json: o.Json = False,
) -> int:  # fmt: skip
    """Measure from which step on scores of previews foretell those of the finished pictures."""
    from genscale.request import Request

    request = Request(prompts=prompts_of(words or [], prompts), **o.request_fields(ctx.params))
    return _calibrate(request, candidates, threshold, out, as_json)


@app.command()
def samplers(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, as_json: o.Json = False
) -> int:
    """List the samplers, or explain one."""
    return _list_plugins("sampler", name, as_json)


@app.command()
def verifiers(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, as_json: o.Json = False
) -> int:
    """List the verifiers, or explain one."""
    return _list_plugins("verifier", name, as_json)


@app.command()
def models(as_json: o.Json = False) -> int:
    """List the embedded models."""
    from genscale import listing

    records = listing.model_records()
    if as_json:
        print_json(records)
    else:
        listing.show_models(records, Console())
    return 0


app.command(epilog=cli_pictures.REPLAY)(cli_pictures.replay)
app.command(epilog=cli_pictures.SCORE)(cli_pictures.score)
app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, epilog=cli_compare.PLAN
)(cli_compare.plan)
app.command(epilog=cli_compare.COMPARE)(cli_compare.compare)
app.command(epilog=cli_folders.SHOW)(cli_folders.show)
app.command(epilog=cli_folders.RESCORE)(cli_folders.rescore)
app.command(epilog=cli_demo.DEMO)(cli_demo.demo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, return its exit code; a refusal is one sentence on stderr and code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == [] or words in [[name] for name in NEED_WORDS]:
        words.append("--help")
    try:
        code = app(words, standalone_mode=False, prog_name="genscale")
        return code if isinstance(code, int) else 0
    except Refusal as error:
        return _fail(str(error), 2, "--json" in words)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted.", INTERRUPTED, "--json" in words)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors, whichever parser typer is built on
            return _fail(error.format_message(), 2, "--json" in words)
        raise


def _fail(message: str, code: int, as_json: bool) -> int:
    print(f"genscale: {message}", file=sys.stderr)
    if as_json:
        print_json({"error": message})
    return code


def _run(request: Any, out: Path | None, as_json: bool) -> int:
    from genscale import generation
    from genscale.progress import Display, plain_warnings
    from genscale.summary import show_record

    try:
        with plain_warnings():
            record = generation.generate(request, out, Display(quiet=as_json))
    except KeyboardInterrupt:
        return _fail("interrupted before a picture was finished.", INTERRUPTED, as_json)
    if as_json:
        print_json(record)
    else:
        show_record(record, Console())
    return INTERRUPTED if record["stopped"] == "interrupted" else 0


def _calibrate(request: Any, candidates: int, threshold: float, out: Path | None, as_json: bool) -> int:
    from genscale import calibration_report
    from genscale.calibrating import calibrate
    from genscale.progress import Display, plain_warnings

    with plain_warnings():
        folder, found = calibrate(request, candidates, threshold, out, Display(quiet=as_json))
    if as_json:
        print_json({"folder": str(folder), **found.as_dict()})
    else:
        calibration_report.show(found, folder, Console())
    return 0


def _list_plugins(kind: str, name: str | None, as_json: bool) -> int:
    from genscale import listing

    records = listing.plugin_records(kind, name)
    if as_json:
        print_json(records if name is None else records[0])
    elif name is None:
        listing.show_plugins(kind, records, Console())
    else:
        listing.show_details(records[0], Console())
    return 0
