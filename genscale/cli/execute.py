"""Carrying a request out for the command line: what is printed, and with which exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from genscale.cli.request_options import print_json

if TYPE_CHECKING:
    from genscale.runs.request import Request

REFUSED, INTERRUPTED = 2, 130


def fail(message: str, code: int, as_json: bool) -> int:
    """Say in one sentence what is wrong; the exit code."""
    print(f"genscale: {message}", file=sys.stderr)
    if as_json:
        print_json({"error": message})
    return code


def carry_out(request: Request, out: Path | None, as_json: bool) -> int:
    """Search, write, print."""
    from genscale.cli.summary_tables import show_record
    from genscale.runs import generate
    from genscale.runs.prepared_run import PreparedRun
    from genscale.runs.progress import Display, plain_warnings

    try:
        with plain_warnings():
            record = generate.generate(PreparedRun.of(request), out, Display(quiet=as_json))
    except KeyboardInterrupt:
        return fail("interrupted before anything was finished.", INTERRUPTED, as_json)
    if as_json:
        print_json(record)
    else:
        show_record(record, Console())
    return INTERRUPTED if record["stopped"] == "interrupted" else 0


def tell_plan(request: Request, as_json: bool) -> int:
    """Print what a request would cost; nothing is generated or written."""
    from genscale.cli.summary_tables import show_plan
    from genscale.runs import generate
    from genscale.runs.prepared_run import PreparedRun
    from genscale.runs.progress import plain_warnings

    with plain_warnings():
        found = generate.plan(PreparedRun.of(request))
    if as_json:
        print_json(found)
    else:
        show_plan(found, Console())
    return 0
