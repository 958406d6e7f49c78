"""Runs a request for the command line: what is printed, and the exit code."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from genscale.cli.request_options import print_json

if TYPE_CHECKING:
    from genscale.runs.request import Request

FAILED, REFUSED, DIFFERS, INTERRUPTED = 1, 2, 3, 130
"""Exit codes; they are listed in `genscale --help`."""


def fail(message: str, code: int, as_json: bool) -> int:
    """Print in one sentence what is wrong; return the exit code."""
    message = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
    print(f"genscale: {message}", file=sys.stderr)
    if as_json:
        print_json({"error": message})
    return code


def unforeseen(error: Exception) -> str:
    """A sentence for an exception that nothing expected; its traceback is kept in a file that the sentence names."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
    try:
        number, name = tempfile.mkstemp(prefix="genscale-", suffix="-traceback.txt", text=True)
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError as full:
        return f"something unforeseen went wrong ({what}), and its traceback cannot be kept: {full.strerror}."
    return f"something unforeseen went wrong ({what}): please report it with the traceback in {name}"


def run_request(request: Request, out: Path | None, as_json: bool) -> int:
    """Search, write the results, print a summary; return the exit code."""
    from genscale.cli.summary_tables import print_record
    from genscale.runs import generate
    from genscale.runs.prepared_run import PreparedRun
    from genscale.runs.progress import Display, plain_warnings

    try:
        with plain_warnings():
            record = generate.generate(PreparedRun.of(request), out, Display(quiet=as_json))
    except generate.RunInterrupted as stop:
        when = "while its results were written" if stop.searched else "before anything was finished"
        kept = "." if stop.kept is None else f"; what was done is kept: genscale resume {stop.kept}"
        return fail(f"interrupted {when}{kept}", INTERRUPTED, as_json)
    if as_json:
        print_json(record)
    else:
        print_record(record, Console())
    if "failed" in record:
        return fail(record["failed"], REFUSED, False)
    return INTERRUPTED if record["stopped"] == "interrupted" else 0


def plan_request(request: Request, as_json: bool) -> int:
    """Print what a request would cost; nothing is generated or written."""
    from genscale.cli.summary_tables import print_plan
    from genscale.runs import generate
    from genscale.runs.prepared_run import PreparedRun
    from genscale.runs.progress import Display, plain_warnings

    with plain_warnings():
        found = generate.plan(PreparedRun.of(request), Display(quiet=as_json))
    if as_json:
        print_json(found)
    else:
        print_plan(found, Console())
    return 0
