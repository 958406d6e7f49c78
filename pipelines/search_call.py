"""One call of a scaled pipeline: opens a search for each prompt, runs the engine, lets the pipeline finish the best.

What the search runs on is a `Host`: a call of a pipeline here, of any other generator in `black_box_call`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from genscale.engine import holding
from genscale.engine.archive import Archive, Entry
from genscale.engine.choice_check import check_choice
from genscale.engine.engine import Engine
from genscale.engine.failures import all_failed
from genscale.engine.ledger import Ledger
from genscale.engine.plan import Plan, plan
from genscale.engine.pool import Purse
from genscale.engine.search import Search
from genscale.engine.unfinished import is_unfinished
from genscale.errors import AllCandidatesFailed, UsageError, quoted
from genscale.key import Key
from genscale.media import Media, cat_media
from genscale.pipelines.call_identity import archive_heading, changed_by_the_run
from genscale.pipelines.decode import Decoder
from genscale.pipelines.describe_search import describe_search
from genscale.pipelines.lent_pipeline import lending
from genscale.pipelines.loading import makes_large_items
from genscale.pipelines.output_media import join_outputs
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.pipeline_lock import Claim
from genscale.pipelines.preview_pictures import PreviewPictures
from genscale.pipelines.search_settings import SearchSettings
from genscale.pipelines.serve import serve
from genscale.results.result import SearchResult
from genscale.results.run_description import RunDescription


class Host(Protocol):
    """What a search runs on.

    texts: the prompt of each row. seeds: that of each row's keys. results: how many candidates a prompt returns.
    engine: what runs the searches.
    """

    @property
    def engine(self) -> type[Engine]: ...
    @property
    def texts(self) -> list[str]: ...
    @property
    def seeds(self) -> list[int]: ...
    @property
    def results(self) -> int: ...
    @property
    def ledger(self) -> Ledger: ...
    def processes(self) -> list[dict[str, Any]]:
        """The arguments of each row's `PromptProcess`."""

    def key(self, row: int) -> Key: ...
    def heading(self, settings: SearchSettings, complete: bool = True) -> dict[str, Any]:
        """As of `call_identity.archive_heading`."""

    def changed(self, heading: dict[str, Any], settings: SearchSettings) -> dict[str, str]:
        """As of `call_identity.changed_by_the_run`."""

    def sizes(self, settings: SearchSettings) -> tuple[int, int | None]:
        """Rows evaluated at once, and rows decoded at once (None: as many)."""

    def decode(self, latents: Tensor, prompts: tuple[int, ...]) -> Media: ...
    def previews(self, settings: SearchSettings) -> PreviewPictures | None:
        """What shows candidates under way; None: nothing does."""

    def serve(self, engine: Engine, settings: SearchSettings) -> str | None:
        """Run the engine to its end; why it stopped early, if it did."""

    def media(self, entries: Sequence[Entry]) -> Media:
        """Finished candidates, decoded."""

    def describe(self, settings: SearchSettings, heading: dict[str, Any]) -> RunDescription: ...


class PipelineHost:
    """A call of a pipeline, evaluated in the pipeline's own loop."""

    engine: type[Engine] = Engine

    def __init__(self, call: PipelineCall, decoder: Decoder) -> None:
        self.call, self.decoder = call, decoder
        self.texts, self.seeds, self.ledger = call.texts, call.seeds, call.ledger
        self.results, self.processes, self.decode = call.arguments.results, call.processes, decoder.media

    def key(self, row: int) -> Key:
        return self.call.key(row)

    def heading(self, settings: SearchSettings, complete: bool = True) -> dict[str, Any]:
        return archive_heading(self.call, settings, complete)

    def changed(self, heading: dict[str, Any], settings: SearchSettings) -> dict[str, str]:
        return changed_by_the_run(heading, settings)

    def sizes(self, settings: SearchSettings) -> tuple[int, int | None]:
        loop, rows = self.call.loop, settings.batch_size
        together = settings.decode_batch or (1 if makes_large_items(self.call.pipe) else None)
        return rows if loop is None else loop.batch_size(rows), together

    def previews(self, settings: SearchSettings) -> PreviewPictures | None:
        if settings.preview is False:
            return None
        small = None if settings.preview is True else settings.preview
        return PreviewPictures(self.call, self.decode, small, self.ledger)

    def serve(self, engine: Engine, settings: SearchSettings) -> str | None:
        unfinished, rates = self.decoder.for_unfinished().media, settings.needs("mix")
        return serve(self.call, engine, unfinished, rates, settings.pad_batches)

    def media(self, entries: Sequence[Entry]) -> Media:
        return cat_media([part.media(*chosen) for part, chosen in _by_decoder(self.decoder, entries)])

    def describe(self, settings: SearchSettings, heading: dict[str, Any]) -> RunDescription:
        return describe_search(settings, self.call, heading)


@dataclass(frozen=True)
class Part:
    """What a search is a part of, where it is one.

    asked: the settings of the whole, under which it is archived and described. spent: (NFE, verifier calls) of each
    prompt before. seconds: of the run before.
    """

    asked: SearchSettings
    spent: Sequence[tuple[int, int]]
    seconds: float


def run_search(host: Host, settings: SearchSettings, claim: Claim, part: Part | None = None) -> SearchResult:
    """Search. claim: what it holds; lent to others while a verifier is called.

    UsageError, before anything is spent or written, for what cannot be done. AllCandidatesFailed, at the end, if every
    candidate of a prompt was dropped; it holds what the others found.
    """
    processes = host.processes()
    settings = replace(settings, budget=settings.budget.resolved(sum(processes[0]["evaluations"])))
    check_search(settings, processes)
    check_choice(settings.sampler, processes[0], settings.budget, settings.roles, host.results, settings.stop)
    searches = _open_searches(host, settings, processes, part)
    asked = settings if part is None else part.asked
    # After everything that may be refused: a refusal leaves no folder.
    heading = None if settings.out is None else host.heading(asked)
    batch_size, decode_batch = host.sizes(settings)
    previews = host.previews(settings)
    archive = Archive(settings.out, heading, before=0.0 if part is None else part.seconds)
    try:
        engine = host.engine(
            searches,
            lending(settings.roles, claim),
            host.decode if previews is None else previews.decode,
            budget=settings.budget,
            archive=archive,
            ledger=host.ledger,
            batch_size=batch_size,
            decode_batch=decode_batch,
            on_event=settings.on_event,
            halt=settings.halt,
            purse=Purse(searches) if settings.pool else None,
            picture=None if previews is None else previews.picture,
        )
        stopped = host.serve(engine, settings)
    finally:
        try:
            if heading is not None:
                archive.add_state(host.changed(heading, asked))
        finally:
            archive.close()
    return _result(host, replace(asked, budget=settings.budget), searches, archive, stopped, heading)


def plan_of(host: Host, settings: SearchSettings) -> Plan:
    """What the search would cost. UsageError: it cannot be made."""
    processes = host.processes()
    budget = settings.budget.resolved(sum(processes[0]["evaluations"]))
    check_search(replace(settings, budget=budget), processes)
    found = plan(
        settings.sampler,
        processes[0],
        settings.budget,
        settings.roles,
        len(host.texts),
        settings.stop,
        host.results,
        settings.keep,
        host.sizes(settings)[0],
    )
    return replace(found, pool=settings.pool)


def _result(
    host: Host, settings: SearchSettings, searches: list[Search], archive: Archive, stopped: str | None,
    heading: dict[str, Any] | None,
) -> SearchResult:  # fmt: skip
    """What was found. UsageError, AllCandidatesFailed: of a prompt nothing was."""
    without = next((search for search in searches if not search.finals), None)
    if without is not None and not without.dropped:
        raise UsageError(
            f"no candidate of {quoted(without.prompt)} was finished within the budget: allow more."
        )
    result = SearchResult(
        tuple(searches),
        tuple(archive.entries),
        host.ledger,
        settings.budget,
        host.seeds[0],
        host.media,
        stopped,
        cache(lambda: host.describe(settings, heading or host.heading(settings, complete=False))),
    )
    if without is not None:
        found = result if any(search.finals for search in searches) else None
        raise AllCandidatesFailed(all_failed(without.prompt, without.dropped), found)
    return result


def finish_best(call: PipelineCall, settings: SearchSettings, decoder: Decoder, result: SearchResult) -> Any:
    """The pipeline's own output for the best candidates: as many a prompt as the call asks for."""
    best = [e for search in result.searches for e in best_with_latents(search, call.arguments.results)]
    with call.ledger.clock("decode"):
        outputs = [part.output(*chosen, settings.decode_batch) for part, chosen in _by_decoder(decoder, best)]
    call.ledger.decodes += len(best)
    return outputs[0] if len(outputs) == 1 else join_outputs(outputs)


def _by_decoder(
    decoder: Decoder, entries: Sequence[Entry]
) -> list[tuple[Decoder, tuple[Tensor, tuple[int, ...]]]]:
    """The entries in order, as latents and prompts: those that follow each other and are all finished, or all not."""
    parts = []
    for unfinished, group in groupby(entries, is_unfinished):
        some = list(group)
        kept = torch.stack([e.x for e in some if e.x is not None])
        latents = holding.to_model(kept, decoder.call.latents.device)
        parts.append(
            (decoder.for_unfinished() if unfinished else decoder, (latents, tuple(e.prompt for e in some)))
        )
    return parts


def check_search(settings: SearchSettings, processes: list[dict[str, Any]]) -> None:
    """UsageError, also for a plan: a budget pays for no candidate, or noise levels that are needed are unknown."""
    budget, verifier_calls = settings.budget, settings.roles.calls
    evaluations = processes[0]["evaluations"]
    nfe = sum(evaluations)
    if budget.nfe is not None and budget.nfe < nfe:
        raise UsageError(
            f"a budget of {budget.nfe}nfe is too small: one sample of {len(evaluations)} steps takes {nfe}."
        )
    if budget.verifier_calls is not None and budget.verifier_calls < verifier_calls:
        raise UsageError(
            f"a budget of {budget.verifier_calls} verifier calls is too small: one sample takes {verifier_calls}."
        )
    view = processes[0]["view"]
    if settings.needs("schedule") and isinstance(view, str):
        raise UsageError(view)


def _open_searches(
    host: Host, settings: SearchSettings, processes: list[dict[str, Any]], part: Part | None
) -> list[Search]:
    opened = [
        Search.open(
            row,
            text,
            settings.sampler,
            host.key(row).fold(*settings.line),
            settings.budget,
            settings.roles,
            keep=max(settings.keep, host.results),
            results=host.results,
            stop=settings.stop,
            pool=settings.pool,
            hold=settings.hold,
            **process,
        )
        for row, (text, process) in enumerate(zip(host.texts, processes, strict=True))
    ]
    if part is not None:
        for search, spent in zip(opened, part.spent, strict=True):
            search.spent, search.calls = spent
    return opened


def best_with_latents(search: Search, count: int) -> list[Entry]:
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
