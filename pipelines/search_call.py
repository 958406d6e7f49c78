"""One call of a scaled pipeline: opens a search for each prompt, runs the engine, lets the pipeline finish the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from genscale.engine.archive import Archive, Entry
from genscale.engine.choice_check import check_choice
from genscale.engine.engine import Engine
from genscale.engine.search import Search
from genscale.errors import UsageError
from genscale.media import Media
from genscale.pipelines.call_identity import archive_heading, changed_by_the_run
from genscale.pipelines.decode import Decoder
from genscale.pipelines.describe_search import describe_search
from genscale.pipelines.loading import makes_videos
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.search_settings import SearchSettings
from genscale.pipelines.serve import serve
from genscale.results.result import SearchResult


def run_search(call: PipelineCall, settings: SearchSettings, decoder: Decoder) -> SearchResult:
    """Search. UsageError, before anything is spent or written, for what cannot be done."""
    processes = call.processes()
    settings = replace(settings, budget=settings.budget.resolved(sum(processes[0]["evaluations"])))
    _check(call, settings, processes)
    searches = _open_searches(call, settings, processes)
    # After everything that may be refused: a refusal leaves no folder.
    heading = None if settings.out is None else archive_heading(call, settings)
    archive = Archive(settings.out, heading)
    try:
        engine = Engine(
            searches,
            settings.roles,
            decoder.media,
            budget=settings.budget,
            archive=archive,
            ledger=call.ledger,
            batch_size=settings.batch_size,
            decode_batch=settings.decode_batch or (1 if makes_videos(call.pipe) else None),
            on_event=settings.on_event,
            halt=settings.halt,
        )
        stopped = serve(call, engine, with_rates=settings.needs("mix"))
    finally:
        if heading is not None:
            archive.add_state(changed_by_the_run(heading, settings))
        archive.close()
    for search in searches:
        if not search.finals:
            raise UsageError(f"no candidate of '{search.prompt}' was finished within the budget: allow more.")

    def decode(entries: Sequence[Entry]) -> Media:
        x = torch.stack([e.x for e in entries if e.x is not None])
        return decoder.media(x, tuple(e.prompt for e in entries))

    return SearchResult(
        tuple(searches),
        tuple(archive.entries),
        call.ledger,
        settings.budget,
        call.seeds[0],
        decode,
        stopped,
        cache(
            lambda: describe_search(
                settings, call, heading or archive_heading(call, settings, complete=False)
            )
        ),
    )


def finish_best(call: PipelineCall, settings: SearchSettings, decoder: Decoder, result: SearchResult) -> Any:
    """The pipeline's own output for the best candidates: as many a prompt as the call asks for."""
    best = [_best_latents(search, call.arguments.results) for search in result.searches]
    prompts = tuple(s.index for s, rows in zip(result.searches, best, strict=True) for _ in rows)
    with call.ledger.clock("decode"):
        latents = torch.stack([x for rows in best for x in rows])
        output = decoder.output(latents, prompts, settings.decode_batch)
    call.ledger.decodes += len(prompts)
    return output


def _check(call: PipelineCall, settings: SearchSettings, processes: list[dict[str, Any]]) -> None:
    """Refuse a budget that pays for no candidate, unknown noise levels that are needed, and a choice without scores."""
    budget, verifier_calls = settings.budget, settings.roles.calls
    nfe = sum(processes[0]["evaluations"])
    if budget.nfe is not None and budget.nfe < nfe:
        raise UsageError(
            f"a budget of {budget.nfe}nfe is too small: one sample of {len(call.probe.evaluations)} steps takes {nfe}."
        )
    if budget.verifier_calls is not None and budget.verifier_calls < verifier_calls:
        raise UsageError(
            f"a budget of {budget.verifier_calls} verifier calls is too small: one sample takes {verifier_calls}."
        )
    view = processes[0]["view"]
    if settings.needs("schedule") and isinstance(view, str):
        raise UsageError(view)
    check_choice(
        settings.sampler, processes[0], budget, settings.roles, call.arguments.results, settings.stop
    )


def _open_searches(
    call: PipelineCall, settings: SearchSettings, processes: list[dict[str, Any]]
) -> list[Search]:
    return [
        Search.open(
            row,
            text,
            settings.sampler,
            call.key(row),
            settings.budget,
            settings.roles,
            keep=max(settings.keep, call.arguments.results),
            stop=settings.stop,
            **process,
        )
        for row, (text, process) in enumerate(zip(call.texts, processes, strict=True))
    ]


def _best_latents(search: Search, count: int) -> list[Tensor]:
    return [e.x for e in search.ranking()[:count] if e.x is not None]
