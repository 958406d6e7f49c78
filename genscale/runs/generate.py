"""Executes a prepared run: searches, then writes what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from genscale.engine.events import Event
from genscale.errors import AllCandidatesFailed, UsageError
from genscale.plugins import registry
from genscale.results.result import SearchResult
from genscale.results.run_description import RunDescription
from genscale.results.run_files import write_run_files
from genscale.runs import request as requests
from genscale.runs.base_picture import SearchAndBase
from genscale.runs.live_preview import Preview
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.run_folder import RunFolder


def plan(run: PreparedRun, display: Display) -> dict[str, Any]:
    """What a run would spend; the model is loaded, nothing is generated and nothing written."""
    run = replace(run, request=replace(run.request, seed=run.request.seed or 0))
    with display.busy(f"loading {run.request.model}"):
        run.load()
    request, both = run.request, SearchAndBase.of(run)
    found = both.plan
    return {
        "model": request.model,
        "sampler": sampler_record(run),
        "verifiers": {"search": request.verifiers, "select": request.select, "held_out": request.held_out},
        "budget": None if run.budget is None else str(both.whole),
        "pool": run.pool,
        "stop": None if run.stop is None else str(run.stop),
        "prompts": found.prompts,
        "steps": found.steps,
        "nfe_per_candidate": found.nfe_per_candidate,
        "draft": None if run.draft is None else str(run.draft),
        "drafts": found.drafts,
        "nfe_per_draft": found.nfe_per_draft,
        "cost_per_prompt": found.cost,
        "nfe_of_base": both.base_nfe,
        "nfe_per_prompt": both.nfe,
        "nfe": None if both.nfe is None else both.nfe * found.prompts,
        "bytes_held": None if found.held is None else found.held.bytes * found.prompts,
    }


class RunInterrupted(KeyboardInterrupt):
    """searched: whether the search had ended. kept: the folder that `genscale resume` goes on with, or None."""

    def __init__(self, searched: bool, kept: Path | None) -> None:
        super().__init__()
        self.searched, self.kept = searched, kept


def generate(
    run: PreparedRun,
    out: Path | None,
    display: Display,
    halt: Callable[[], bool] | None = None,
    temporary: bool = False,
) -> dict[str, Any]:
    """Search, and write the results in a folder (a fresh one by default); what run.json holds, with the folder.

    halt: as of `genscale.scale`. temporary: nobody can go on in this folder later. "failed" in what is returned says
    that all candidates of a prompt failed. RunInterrupted: by Ctrl-C.
    """
    folder, searched = RunFolder.claimed(out), False
    try:
        run = replace(run, request=folder.settle(run.request))
        with display.busy(f"loading {run.request.model}"):
            run = run.with_frame_rate()
        with display.busy("preparing the search"):
            both = SearchAndBase.of(run)
        started, failed = time.perf_counter(), None
        try:
            result, images, seconds = _search(folder, both, display, halt)
        except AllCandidatesFailed as error:  # of one prompt: what the others found is written
            if error.result is None:
                raise
            result, images, seconds, failed = error.result, None, time.perf_counter() - started, str(error)
        searched = True
        plain, whole = both.base_of(result), replace(result, budget=both.whole)
        record = write_run_files(folder, _description(run), whole, seconds, images, plain)
    except BaseException as error:
        kept = folder.abandon() and not temporary
        if isinstance(error, KeyboardInterrupt):
            raise RunInterrupted(searched, folder.path if kept else None) from error
        if kept and not folder.held(requests.FILE) and isinstance(error, UsageError):
            display.say(f"what was done is kept: genscale resume {folder.path}")
        raise
    finally:
        folder.release()
    return {"folder": str(folder.path), **record, **({} if failed is None else {"failed": failed})}


def sampler_record(run: PreparedRun) -> dict[str, Any]:
    """The sampler's name and all its options, defaults too."""
    return {"name": run.request.sampler, **registry.described(run.sampler)}


def _description(run: PreparedRun) -> RunDescription:
    from genscale.pipelines.loading import makes_large_items

    own = getattr(run.pipe, "scheduler", None)
    scheduler, large = "" if own is None else type(own).__name__, makes_large_items(run.pipe)
    return RunDescription(run.request.as_dict(), sampler_record(run), scheduler, large)


def _search(
    folder: RunFolder, both: SearchAndBase, display: Display, halt: Callable[[], bool] | None
) -> tuple[SearchResult, Any, float]:
    """The result, the items that the scaled pipeline returned (None of large ones), and the seconds it took."""
    from genscale.pipelines.loading import makes_large_items
    from genscale.pipelines.output_media import items_of

    run = both.run
    preview = Preview(folder, prompts=run.request.prompts, shown=display.previewed)

    def on_event(event: Event) -> None:
        display(event)
        preview(event)

    under_way = run.request.preview or display.shows_estimates
    scaled = run.scaled(out=folder.path, on_event=on_event, halt=halt, preview=under_way)
    folder.begin(run.request)
    display.start(both.plan)
    try:
        started, call = time.perf_counter(), run.seeded_call()
        if makes_large_items(run.pipe):
            return scaled.search(**call), None, time.perf_counter() - started
        output = scaled(**call)
        return output.search, items_of(output, run.pipe), time.perf_counter() - started
    finally:
        display.stop()
        preview.close()
