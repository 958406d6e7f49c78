"""Runs a request for the command line: what is printed, and the exit code."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from rich.console import Console

from genscale.cli.request_options import print_json

if TYPE_CHECKING:
    from genscale.runs.request import Request

FAILED, REFUSED, DIFFERS, INTERRUPTED = 1, 2, 3, 130
"""Exit codes; they are listed in `genscale --help`."""
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)
"""Numbers of errors of a write; one that names no file is of stdout: files are written by `storage.durable_files`."""


def fail(message: str, code: int, as_json: bool) -> int:
    """Print in one sentence what is wrong; return the exit code, also where nothing can be printed."""
    message = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
    with suppress(OSError):
        print(f"genscale: {message}", file=sys.stderr)
    if as_json:
        with suppress(OSError):
            print_json({"error": message})
    printed()
    return code


def printed() -> OSError | None:
    """Write what stdout holds back. The error if it takes nothing, as on a full disk; then nothing more goes there."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _give_up()
        return error
    return None


def _give_up() -> None:
    # Python writes what is left once more when it ends.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def of_stdout(error: Exception) -> TypeGuard[OSError]:
    """Whether what a command prints could not be written."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _UNWRITABLE


def unprinted(error: OSError) -> int:
    """The exit code of a command whose output cannot be written. A reader that has closed its end wants no sentence."""
    _give_up()
    if error.errno == errno.EPIPE:
        return FAILED
    return fail(f"what it prints cannot be written to stdout: {error.strerror}.", REFUSED, False)


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
    from genscale.bench.layout_run import RunLayout
    from genscale.cli.summary_tables import print_record
    from genscale.runs import generate
    from genscale.runs.prepared_run import PreparedRun
    from genscale.runs.progress import Display, plain_warnings

    try:
        layout = RunLayout.of(request)
        with plain_warnings():
            record = generate.generate(PreparedRun.of(request), out, Display(quiet=as_json))
            if layout is not None:
                record["layouts"] = layout.write(record)
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
