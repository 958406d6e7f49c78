"""One call of a scaled pipeline: opens a search for each prompt, runs the engine, lets the pipeline finish the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from genscale.engine.archive import Archive, Entry
from genscale.engine.choice_check import check_choice
from genscale.engine.drafts import is_draft
from genscale.engine.engine import Engine
from genscale.engine.failures import all_failed
from genscale.engine.pool import Purse
from genscale.engine.search import Search
from genscale.errors import AllCandidatesFailed, UsageError, quoted
from genscale.media import Media
from genscale.pipelines.call_identity import archive_heading, changed_by_the_run
from genscale.pipelines.decode import Decoder
from genscale.pipelines.describe_search import describe_search
from genscale.pipelines.lent_pipeline import lending
from genscale.pipelines.loading import makes_videos
from genscale.pipelines.output_media import join_outputs
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.pipeline_lock import Claim
from genscale.pipelines.search_settings import SearchSettings
from genscale.pipelines.serve import serve
from genscale.results.result import SearchResult


def run_search(call: PipelineCall, settings: SearchSettings, decoder: Decoder, claim: Claim) -> SearchResult:
    """Search. claim: what it holds; lent to others while a verifier is called.

    UsageError, before anything is spent or written, for what cannot be done. AllCandidatesFailed, at the end, if every
    candidate of a prompt was dropped; it holds what the others found.
    """
    processes = call.processes()
    settings = replace(settings, budget=settings.budget.resolved(sum(processes[0]["evaluations"])))
    check_search(call, settings, processes)
    results = call.arguments.results
    check_choice(settings.sampler, processes[0], settings.budget, settings.roles, results, settings.stop)
    searches = _open_searches(call, settings, processes)
    # After everything that may be refused: a refusal leaves no folder.
    heading = None if settings.out is None else archive_heading(call, settings)
    archive = Archive(settings.out, heading)
    try:
        engine = Engine(
            searches,
            lending(settings.roles, claim),
            decoder.media,
            budget=settings.budget,
            archive=archive,
            ledger=call.ledger,
            batch_size=settings.batch_size
            if call.loop is None
            else call.loop.batch_size(settings.batch_size),
            decode_batch=settings.decode_batch or (1 if makes_videos(call.pipe) else None),
            on_event=settings.on_event,
            halt=settings.halt,
            purse=Purse(searches) if settings.pool else None,
        )
        stopped = serve(call, engine, decoder.drafts().media, settings.needs("mix"))
    finally:
        if heading is not None:
            archive.add_state(changed_by_the_run(heading, settings))
        archive.close()
    return _result(call, settings, decoder, searches, archive, stopped, heading)


def _result(
    call: PipelineCall, settings: SearchSettings, decoder: Decoder, searches: list[Search], archive: Archive,
    stopped: str | None, heading: dict[str, Any] | None,
) -> SearchResult:  # fmt: skip
    """What was found. UsageError, AllCandidatesFailed: of a prompt nothing was."""
    without = next((search for search in searches if not search.finals), None)
    if without is not None and not without.dropped:
        raise UsageError(
            f"no candidate of {quoted(without.prompt)} was finished within the budget: allow more."
        )

    def decode(entries: Sequence[Entry]) -> Media:
        parts = [part.media(*chosen) for part, chosen in _by_decoder(decoder, entries)]
        return parts[0] if len(parts) == 1 else Media(torch.cat([part.pixels for part in parts]))

    result = SearchResult(
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
    if without is not None:
        found = result if any(search.finals for search in searches) else None
        raise AllCandidatesFailed(all_failed(without.prompt, without.dropped), found)
    return result


def finish_best(call: PipelineCall, settings: SearchSettings, decoder: Decoder, result: SearchResult) -> Any:
    """The pipeline's own output for the best candidates: as many a prompt as the call asks for."""
    best = [e for search in result.searches for e in _best_with_latents(search, call.arguments.results)]
    with call.ledger.clock("decode"):
        outputs = [part.output(*chosen, settings.decode_batch) for part, chosen in _by_decoder(decoder, best)]
    call.ledger.decodes += len(best)
    return outputs[0] if len(outputs) == 1 else join_outputs(outputs)


def _by_decoder(
    decoder: Decoder, entries: Sequence[Entry]
) -> list[tuple[Decoder, tuple[Tensor, tuple[int, ...]]]]:
    """The entries in order, as latents and prompts: those that follow each other and are all drafts, or all not."""
    parts = []
    for drafts, group in groupby(entries, is_draft):
        some = list(group)
        latents = torch.stack([e.x for e in some if e.x is not None])
        parts.append((decoder.drafts() if drafts else decoder, (latents, tuple(e.prompt for e in some))))
    return parts


def check_search(call: PipelineCall, settings: SearchSettings, processes: list[dict[str, Any]]) -> None:
    """UsageError, also for a plan: a budget pays for no candidate, or noise levels that are needed are unknown."""
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


def _open_searches(
    call: PipelineCall, settings: SearchSettings, processes: list[dict[str, Any]]
) -> list[Search]:
    return [
        Search.open(
            row,
            text,
            settings.sampler,
            call.key(row).fold(*settings.line),
            settings.budget,
            settings.roles,
            keep=max(settings.keep, call.arguments.results),
            results=call.arguments.results,
            stop=settings.stop,
            pool=settings.pool,
            **process,
        )
        for row, (text, process) in enumerate(zip(call.texts, processes, strict=True))
    ]


def _best_with_latents(search: Search, count: int) -> list[Entry]:
    """The `count` best. Where fewer finished, they are repeated, so that every prompt has its places."""
    best = [e for e in search.ranking()[:count] if e.x is not None]
    if len(best) < count:
        import warnings

        warnings.warn(
            f"only {len(best)} of the {count} candidates asked for of {quoted(search.prompt)} finished: they are "
            "repeated",
            stacklevel=4,
        )
    return [best[i % len(best)] for i in range(count)]
