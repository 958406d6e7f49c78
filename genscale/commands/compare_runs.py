"""Carrying out `genscale compare`: every entry an ordinary run in its own folder, on one pipeline that is loaded once.

Killed, it goes on where it was: runs that are over are read, the one under way resumes from its archive.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genscale import __version__
from genscale.commands import comparison_figures
from genscale.commands.compare_entries import BUDGET, ComparedRun
from genscale.commands.comparison_of_runs import comparison_of_runs
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.results.comparison import Comparison
from genscale.runs import generate, prepare, verifier_specs
from genscale.runs import request as requests
from genscale.runs.prepare import Parts
from genscale.runs.progress import Display
from genscale.runs.run_folder import RunFolder
from genscale.runs.verifier_specs import Named

ASKED, FOUND = "compare.json", "comparison.json"


def compare(axis: str, entries: Sequence[ComparedRun], out: Path | None, display: Display) -> Comparison:
    """Run what is not there yet, then compare: comparison.json, grid.png and curves.png in the folder.

    KeyboardInterrupt: what was done is kept, and `resume` goes on.
    """
    parts = _shared([prepare.check(entry.request) for entry in entries])
    folder = RunFolder(out or RunFolder.fresh())
    folder.claim()
    try:
        entries = _settled(folder, axis, entries)
        loaded = _Once(entries[0], parts[0])
        if axis != BUDGET and entries[0].request.budget is None:
            entries, parts = _at_equal_cost(entries, parts, loaded)
        folder.write_json(
            ASKED, {"genscale": __version__, "axis": axis, "entries": [e.as_dict() for e in entries]}
        )
        records = []
        for n, (entry, part) in enumerate(zip(entries, parts, strict=True), 1):
            display.say(f"{n} of {len(entries)}: {entry.name}")
            records.append(_run(folder, entry, part, loaded, display))
    except BaseException as error:
        if not any((folder.path / entry.folder).is_dir() for entry in entries):
            (folder.path / ASKED).unlink(missing_ok=True)
            folder.abandon()
        elif holds(folder.path) and isinstance(error, UsageError | KeyboardInterrupt):
            display.say(f"what was done is kept: genscale resume {folder.path}")
        raise
    found = comparison_of_runs(axis, entries, records)
    files = comparison_figures.write(folder, found, entries, records)
    found = replace(found, folder=str(folder.path), files=(*files, FOUND))
    folder.write_json(FOUND, found.as_dict())
    return found


def holds(folder: Path) -> bool:
    """Whether a folder is that of a comparison."""
    return (folder.expanduser() / ASKED).is_file()


def resume(folder: Path, display: Display) -> Comparison:
    """Go on with a comparison that was killed or interrupted."""
    axis, entries = _asked(folder.expanduser() / ASKED)
    return compare(axis, entries, folder, display)


@dataclass
class _Once:
    """The pipeline of all entries, loaded when the first of them needs it."""

    entry: ComparedRun
    parts: Parts
    pipe: Any = None

    def __call__(self) -> Any:
        if self.pipe is None:
            self.pipe = generate.load_pipe(self.entry.request, self.parts)
        return self.pipe


def _shared(parts: Sequence[Parts]) -> list[Parts]:
    """Verifiers of one name are one object in all entries: their weights are loaded once."""
    made: dict[str, Any] = {}

    def named(verifier: Any) -> Any:
        if isinstance(verifier, Named):  # of one spec, options and all
            return made.setdefault(verifier.name, verifier)
        if not isinstance(verifier, str):  # one that looks at boxes of its own
            return verifier
        if verifier not in made:
            made[verifier] = verifier_specs.made(verifier)
        return made[verifier]

    def panel(members: Sequence[tuple[Any, float]]) -> list[tuple[Any, float]]:
        return [(named(v), weight) for v, weight in members]

    return [
        replace(p, verifiers=panel(p.verifiers), select=panel(p.select), held_out=panel(p.held_out))
        for p in parts
    ]


def _settled(folder: RunFolder, axis: str, entries: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The entries with one seed: that of the folder where it is continued, as given, or drawn."""
    seed = entries[0].request.seed
    path = folder.path / ASKED
    if path.is_file():
        earlier_axis, earlier = _asked(path)
        seed = earlier[0].request.seed if seed is None else seed
        if earlier_axis != axis:
            raise UsageError(
                f"'{folder.path}' compares by {earlier_axis}, not by {axis}: choose another folder with --out."
            )
    elif (folder.path / requests.FILE).is_file():
        raise UsageError(f"'{folder.path}' holds a run, no comparison: choose another folder with --out.")
    first = replace(entries[0].request, seed=seed).seeded()
    return [replace(e, request=replace(e.request, seed=first.seed).anchored()) for e in entries]


def _asked(path: Path) -> tuple[str, list[ComparedRun]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return str(data["axis"]), [ComparedRun.from_dict(entry, str(path)) for entry in data["entries"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"'{path}' cannot be read: it was changed by hand.") from None


def _at_equal_cost(
    entries: Sequence[ComparedRun], parts: Sequence[Parts], loaded: _Once
) -> tuple[list[ComparedRun], list[Parts]]:
    """Without a budget all get what the first one costs."""
    first, part = entries[0].request, parts[0]
    pipe = loaded()
    nfe = generate.planned(generate.scaled_pipe(pipe, first, part), pipe, first, part).nfe
    assert nfe is not None  # without a budget or a rule every sampler comes to an end of its own
    budget = f"{nfe}nfe"
    given = [replace(e, request=replace(e.request, budget=budget)) for e in entries]
    return given, [replace(p, budget=Budget.parse(budget)) for p in parts]


def _run(
    folder: RunFolder, entry: ComparedRun, parts: Parts, loaded: _Once, display: Display
) -> dict[str, Any]:
    path = folder.path / entry.folder
    record = _over(path, entry)
    if record is None:
        record = generate.generate(entry.request, path, display, (loaded(), parts))
    if record["stopped"] is not None:
        raise KeyboardInterrupt
    return record


def _over(path: Path, entry: ComparedRun) -> dict[str, Any] | None:
    """The record of a run that is over and is this very one."""
    try:
        record: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        earlier = requests.load_folder(path)
    except (OSError, ValueError):
        return None
    same = entry.request.difference(earlier) is None
    return record if same and record.get("stopped") is None and record.get("prompts") else None
