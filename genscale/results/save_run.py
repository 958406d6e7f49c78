"""Writes a search that was run in Python into a folder, as the command line writes its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from genscale.engine.archive import FILE as ARCHIVE
from genscale.engine.archive import Archive
from genscale.errors import UsageError
from genscale.report.output_folder import OutputFolder
from genscale.results.run_description import RunDescription
from genscale.results.run_files import write_run_files
from genscale.results.search_outcome import SearchOutcome
from genscale.storage import typed_json
from genscale.storage.durable_files import has_ended, sync_folder
from genscale.storage.former_names import with_present_names

_LAST = "run.json"  # a folder that has it is complete
_SAVING = ".saving-"


def save_run(result: SearchOutcome, folder: Path) -> Path:
    """The folder, with everything in it or with nothing new. UsageError: it holds another run, or cannot be written."""
    if result.describe is None:
        raise UsageError(
            "this result does not say what it was asked for: only those of genscale.scale can be saved."
        )
    about, target = result.describe(), folder.expanduser().absolute()
    if target.exists() and not target.is_dir():
        raise UsageError(f"'{target}' is not a folder: choose another name.")
    claimed = OutputFolder(target)
    claimed.claim()
    staging = OutputFolder(target.parent / f".{target.name}{_SAVING}{os.getpid()}")
    try:
        _refuse_another(target, about)
        _remove_left_over(target)
        staging.prepare()
        write_run_files(staging, about, result, result.wall_seconds)
        staging.write_json("request.json", dict(about.request))
        _write_archive(target if (target / ARCHIVE).exists() else staging.path, about, result)
        if about.store is not None:
            about.store.copy((e.x for e in result.entries if e.final and e.x is not None), staging.path)
        _move(staging.path, target)
    except OSError as error:
        raise UsageError(f"cannot write to '{target}' ({error.strerror}): choose another folder.") from error
    finally:
        shutil.rmtree(staging.path, ignore_errors=True)
        claimed.release()
        claimed.remove_new()
    return target


def _remove_left_over(target: Path) -> None:
    """What a process left that was killed while it saved."""
    begin = f".{target.name}{_SAVING}"
    for path in target.parent.iterdir():
        number = path.name.removeprefix(begin)
        if path.name.startswith(begin) and number.isdecimal() and has_ended(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _refuse_another(target: Path, about: RunDescription) -> None:
    requests = [_record(target / "request.json"), (_record(target / _LAST) or {}).get("request")]
    other = any(found is not None and found != dict(about.request) for found in requests)
    if other or (target / "compare.json").exists():
        raise UsageError(f"'{target}' holds another run: choose another folder.")


def _record(path: Path) -> Any:
    """The JSON of a file with its present names; None where there is no file."""
    return typed_json.read(path, dict[str, Any], with_present_names) if path.is_file() else None


def _write_archive(folder: Path, about: RunDescription, result: SearchOutcome) -> None:
    """The scores of all entries and the latents that were kept, as far as the archive does not hold them already."""
    archive = Archive(folder, about.heading)  # refuses the archive of another run
    try:
        for entry in result.entries:
            where = (entry.prompt, entry.candidate, entry.step)
            if entry.final and entry.x is not None:
                archive.add_latents(*where, entry.x)
            if archive.scored(*where) is None:
                archive.add_score(entry, fresh=True)
    finally:
        archive.close()


def _move(source: Path, target: Path) -> None:
    """Every file of a folder into another one of the same disk, run.json last."""
    files = [p for p in source.rglob("*") if p.is_file()]
    for path in sorted(files, key=lambda p: p.name == _LAST):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
    for place in (target / "latents", target):
        sync_folder(place)
