"""Runs that are parts of something larger: a finished one is read, an unfinished one goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.runs import generate as generation
from genscale.runs import read_request
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.run_record import holds_results, read_record


def finished_record(path: Path, run: PreparedRun) -> dict[str, Any] | None:
    """The record of this very run, if its folder holds it and it is finished."""
    try:
        record = read_record(path)
        earlier = read_request.load_folder(path)
    except UsageError:
        return None
    if record is None or run.request.difference(earlier) is not None:
        return None
    return (
        record if record.get("stopped") is None and holds_results(record, len(run.request.prompts)) else None
    )


def completed_record(path: Path, run: PreparedRun, display: Display) -> dict[str, Any]:
    """What run.json holds; the search is done where it is not there yet. KeyboardInterrupt: it was interrupted."""
    record = finished_record(path, run)
    if record is None:
        record = generation.generate(run, path, display)
    if record["stopped"] is not None:
        raise KeyboardInterrupt
    return record
