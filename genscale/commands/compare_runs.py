"""`genscale compare`: every entry is an ordinary run in a folder of its own, on one pipeline that is loaded once.

After a kill it resumes: finished runs are read, the unfinished one goes on from its archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from genscale import __version__
from genscale.commands import comparison_figures
from genscale.commands.compare_entries import BUDGET, ComparedRun, EntryRecord, check
from genscale.commands.comparison_of_runs import comparison_of_runs
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.results.comparison import Comparison
from genscale.runs import request as requests
from genscale.runs.base_picture import SearchAndBase
from genscale.runs.finished_run import completed_record, finished_record
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.run_folder import RunFolder
from genscale.runs.trusted_code import refuse_code
from genscale.runs.verifier_specs import Named
from genscale.storage import typed_json

ASKED, FOUND = "compare.json", "comparison.json"


def compare(axis: str, entries: Sequence[ComparedRun], out: Path | None, display: Display) -> Comparison:
    """Run what is not there yet, then compare: comparison.json, grid.png and curves.png in the folder.

    KeyboardInterrupt: finished work is kept, and `resume` goes on.
    """
    check(axis, [entry.request for entry in entries])
    runs = _with_shared_models([PreparedRun.of(entry.request) for entry in entries])
    folder = RunFolder.claimed(out)
    try:
        entries = _settled(folder, axis, entries)
        runs = [replace(r, request=e.request) for r, e in zip(runs, entries, strict=True)]
        if axis != BUDGET and entries[0].request.budget is None:
            with display.busy(f"loading {runs[0].request.model}"):
                runs = _at_equal_cost(runs)
            entries = [replace(e, request=r.request) for e, r in zip(entries, runs, strict=True)]
        with display.busy("preparing the searches"):
            for entry, run in zip(entries, runs, strict=True):
                if finished_record(folder.path / entry.folder, run) is None:
                    run.plan()  # may refuse, before anything is spent on another entry
        folder.write_json(
            ASKED, {"genscale": __version__, "axis": axis, "entries": [e.as_dict() for e in entries]}
        )
        records = []
        for n, (entry, run) in enumerate(zip(entries, runs, strict=True), 1):
            display.say(f"{n} of {len(entries)}: {entry.name}")
            records.append(completed_record(folder.path / entry.folder, run, display))
        found = comparison_figures.with_figures(
            folder, comparison_of_runs(axis, entries, records), entries, records
        )
        found = replace(found, files=(*found.files, FOUND))
        folder.write_json(FOUND, found.as_dict())
    except BaseException as error:
        if not any((folder.path / entry.folder).is_dir() for entry in entries):
            (folder.path / ASKED).unlink(missing_ok=True)
            folder.abandon()
        elif holds(folder.path) and isinstance(error, _worth_telling(folder)):
            display.say(f"what was done is kept: genscale resume {folder.path}")
        raise
    finally:
        folder.release()
    return found


def _worth_telling(folder: RunFolder) -> Any:
    """The errors after which it is said how to go on; who goes on already knows that."""
    return KeyboardInterrupt if folder.held(ASKED) else (UsageError, KeyboardInterrupt)


def holds(folder: Path) -> bool:
    """Whether a folder is that of a comparison."""
    return (folder.expanduser() / ASKED).is_file()


def resume(folder: Path, display: Display, *, trust: bool = False) -> Comparison:
    """Go on with a comparison that was killed or interrupted. trust: run code that the folder asks for."""
    axis, entries = _asked(folder.expanduser() / ASKED)
    for entry in entries:
        refuse_code(entry.request, folder, trust)
        if (folder.expanduser() / entry.folder).is_symlink():
            raise UsageError(f"'{folder}/{entry.folder}' is a link to another place: remove it.")
    return compare(axis, entries, folder, display)


def _with_shared_models(runs: Sequence[PreparedRun]) -> list[PreparedRun]:
    """One pipeline for all, and one object for verifiers of one name: their weights are loaded once."""
    made: dict[str, Any] = {}

    def shared(verifier: Any) -> Any:
        if isinstance(verifier, Named):  # its name holds its options, too
            return made.setdefault(verifier.name, verifier)
        return verifier  # one with regions of its own

    def all_shared(members: Sequence[tuple[Any, float]]) -> list[tuple[Any, float]]:
        return [(shared(v), weight) for v, weight in members]

    return [
        replace(
            run,
            verifiers=all_shared(run.verifiers),
            select=all_shared(run.select),
            held_out=all_shared(run.held_out),
            load=runs[0].load,
        )
        for run in runs
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


class _Asked(TypedDict):
    axis: Literal["sampler", "verifier", "budget"]
    entries: Annotated[list[EntryRecord], bool]  # at least one


def _asked(path: Path) -> tuple[str, list[ComparedRun]]:
    data: _Asked = typed_json.read(path, _Asked)
    return data["axis"], [ComparedRun.from_record(entry, str(path)) for entry in data["entries"]]


def _at_equal_cost(runs: Sequence[PreparedRun]) -> list[PreparedRun]:
    """Without a budget given: the cost of the first run becomes the budget of all."""
    nfe = SearchAndBase.of(runs[0]).nfe
    assert nfe is not None  # without a budget or a stop rule every sampler has a fixed cost
    budget = f"{nfe}nfe"
    return [
        replace(run, request=replace(run.request, budget=budget), budget=Budget.parse(budget)) for run in runs
    ]
