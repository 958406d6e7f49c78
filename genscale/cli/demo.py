"""`genscale demo`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from genscale.cli import options
from genscale.cli.request_options import request_fields
from genscale.errors import UsageError

DEMO = """
Examples:

  genscale demo

  genscale demo --model owner/name --size 512x512 --device cuda --max-nfe 20000

  genscale demo --host 0.0.0.0 --port 8080 --no-open

It listens on this machine only, unless --host says otherwise. Clients choose among what is offered: they give no
paths, load no models of their own and send no files.
"""

FETCHES_NOTHING = (
    "This demo fetches no weights: they must be on its machine, or it is started with --download."
)


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to offer beside the embedded ones: Hugging Face id, folder or file. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.", min=0, max=65535)] = 7860,
    out: Annotated[
        Path, typer.Option(help="Folder for the searches: one for each page that is opened.", metavar="DIR")
    ] = Path("runs/demo"),
    max_nfe: Annotated[int, typer.Option(help="The most that one search may spend, in NFE.", min=1)] = 4000,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    download: Annotated[
        bool,
        typer.Option(
            "--download/--no-download", help="Let verifiers that a client chooses fetch their weights."
        ),
    ] = False,
    size: options.Size = None,
    frames: options.Frames = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    offload: options.Offload = None,
    as_json: options.Json = False,
) -> int:
    """Search in a browser: prompt, sampler, verifiers and budget in, the population as it forms out."""
    from genscale.demo import app
    from genscale.demo.form import Limits
    from genscale.demo.jobs import JobQueue
    from genscale.pipelines.loading import EMBEDDED
    from genscale.runs.request import Request

    place = request_fields({"dtype": dtype, "device": device, "offload": offload})
    shape = request_fields({"size": size, "frames": frames})  # of the bundled toy models they are known
    out = out.expanduser()
    models: dict[str, Request] = {}
    for name in (*(model or ()), *EMBEDDED):
        own = {} if name in EMBEDDED else shape
        models.setdefault(_label(name, models), Request(model=name, **place, **own))
    queue = JobQueue(app.offer(models, Limits(nfe=max_nfe)), out, "" if download else FETCHES_NOTHING)
    _writable(out)
    queue.load(list(models)[: len(model or ())])
    app.serve(queue, host, port, open_page=open_, as_json=as_json, offline=not download)
    return 0


def _label(name: str, taken: Collection[str]) -> str:
    """What clients see of a model: a folder's name without the way to it, and a number where two have one name."""
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
