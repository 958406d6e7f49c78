"""One call of a scaled pipeline: opens a search for each prompt, runs the engine, lets the pipeline finish the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genscale.diffusion.mixtures import Mix
from genscale.engine.archive import Archive, Entry
from genscale.engine.budget import Budget
from genscale.engine.choice_check import check_choice
from genscale.engine.engine import Engine
from genscale.engine.events import Event
from genscale.engine.search import Search
from genscale.engine.stopping import Stop
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.media import Media
from genscale.pipelines.decode import Decoder
from genscale.pipelines.describe_search import describe_search
from genscale.pipelines.loading import makes_videos
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.serve import serve
from genscale.plugins import registry
from genscale.protocol.interfaces import Sampler, SamplerHooks
from genscale.results.result import SearchResult


def ignore(event: Event) -> None:
    pass


def never() -> bool:
    return False


@dataclass(frozen=True, eq=False)
class SearchSettings:
    """What `genscale.scale` was given, checked and completed; its docstring tells what each field is."""

    pipe: Any
    sampler: Sampler
    roles: Roles
    budget: Budget
    batch_size: int = 16
    decode_batch: int | None = None
    out: Path | None = None
    keep: int = 1
    on_event: Callable[[Event], None] = ignore
    stop: Stop | None = None
    mix: Mix | None = None
    models: Mapping[str, Any] = field(default_factory=dict)
    halt: Callable[[], bool] = never
    mix_given: Mapping[str, Any] = field(default_factory=dict)  # mix= and guide= as they were given

    def needs(self, what: str) -> bool:
        """Whether the sampler says that it needs "schedule", "mix", ... (protocol/interfaces.py)."""
        return what in SamplerHooks.of(self.sampler).needs


def run_search(call: PipelineCall, settings: SearchSettings, decoder: Decoder) -> SearchResult:
    """Search. UsageError, before anything is spent or written, for what cannot be done."""
    processes = call.processes()
    settings = replace(settings, budget=settings.budget.resolved(sum(processes[0]["evaluations"])))
    check_search(call, settings, processes)
    results = call.arguments.results
    check_choice(settings.sampler, processes[0], settings.budget, settings.roles, results, settings.stop)
    searches = _open_searches(call, settings, processes)
    # After everything that may be refused: a refusal leaves no folder.
    heading = archive_heading(call, settings)
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
        partial(describe_search, settings, call.arguments, call.texts, call.seeds[0], heading),
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


def archive_heading(call: PipelineCall, settings: SearchSettings) -> dict[str, Any]:
    """What makes two runs the same, so that one can resume from the other's archive."""
    verifiers = {
        role: [[member.name, member.weight] for member in getattr(settings.roles, role).members]
        for role in ("search", "select", "held_out")
    }
    return {
        "prompts": call.texts,
        "seeds": call.seeds,
        "pipeline": type(call.pipe).__name__,
        "model": Path(str(getattr(call.pipe.config, "_name_or_path", ""))).name,
        "steps": len(call.probe.evaluations),
        "latent": list(call.latents.shape[1:]),
        "sampler": type(settings.sampler).__name__,
        "options": registry.described(settings.sampler),
        "verifiers": verifiers,
        "ensemble": settings.roles.judge.ensemble,
        "mix": None if settings.mix is None else repr(settings.mix),
        "limits": {
            "budget": str(settings.budget),
            "stop": None if settings.stop is None else str(settings.stop),
            "batch_size": settings.batch_size,
        },
    }


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
