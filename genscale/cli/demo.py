"""`genscale demo`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from genscale.cli import options
from genscale.cli.request_options import request_fields
from genscale.errors import UsageError

DEMO = """
Examples:

  genscale demo

  genscale demo --model owner/name --size 512x512 --device cuda --max-nfe 20000

  genscale demo --host 0.0.0.0 --port 8080 --no-open

It listens on this machine only, unless --host says otherwise. Clients choose among the models, samplers and verifiers
offered: they cannot name paths, load other models or send files.
"""

NO_DOWNLOADS = (
    "This demo downloads no weights: they must be on its machine, or it must be started with --download."
)


@options.takes(options.of_request("size", "frames", "dtype", "device", "offload"))
def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to offer beside the bundled toy models: Hugging Face id, folder or file. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.", min=0, max=65535)] = 7860,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep all searches in; each open page gets its own inside. Without it searches are removed "
            "an hour after their page was closed, and at the end.",
            metavar="DIR",
        ),
    ] = None,
    max_nfe: Annotated[int, typer.Option(help="Most NFE that one search may spend.", min=1)] = 4000,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    download: Annotated[
        bool,
        typer.Option(
            "--download/--no-download", help="Let verifiers that a client chooses download their weights."
        ),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview/--no-preview", help="Show coarse pictures of candidates before the first are scored."
        ),
    ] = True,
    **given: Any,
) -> int:
    """Search in a browser: choose prompt, sampler, verifiers and budget, and watch the candidates appear."""
    from genscale.demo import app
    from genscale.demo.form import Limits
    from genscale.demo.jobs import JobQueue
    from genscale.pipelines.loading import EMBEDDED
    from genscale.runs.request import Request

    place = request_fields({name: given[name] for name in ("dtype", "device", "offload")})
    shape = request_fields({name: given[name] for name in ("size", "frames")})  # toy models have their own
    models: dict[str, Request] = {}
    for name in (*(model or ()), *EMBEDDED):
        own = {} if name in EMBEDDED else shape
        models.setdefault(_label(name, models), Request(model=name, **place, **own))
    with TemporaryDirectory(prefix="genscale-demo-") as passing:
        folder = Path(passing) if out is None else out.expanduser()
        advice = "" if download else NO_DOWNLOADS
        offered = app.offer(models, Limits(nfe=max_nfe))
        queue = JobQueue(offered, folder, advice, keep=out is not None, previews=preview)
        _writable(folder)
        queue.load(list(models)[: len(model or ())])
        app.serve(queue, host, port, open_page=open_, as_json=given["as_json"], offline=not download)
    return 0


def _label(name: str, taken: Collection[str]) -> str:
    """The name of a model that clients see: of a folder the last part, with a number where two would be the same."""
    if not os.path.exists(name):
        return name
    label = stem = Path(name).expanduser().resolve().name
    for n in itertools.count(2):
        if label not in taken:
            break
        label = f"{stem} ({n})"
    return label


def _writable(out: Path) -> None:
    try:
        out.expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write to '{out}' ({error.strerror}): choose another folder with --out."
        ) from None
