"""One call of a scaled pipeline as a search: engine, loop, winners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genscale.engine.archive import Archive, Entry
from genscale.engine.budget import Budget
from genscale.engine.engine import Engine
from genscale.engine.events import Event
from genscale.engine.search import Search
from genscale.engine.stopping import Stop
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.media import Media
from genscale.pipelines.loading import makes_clips
from genscale.pipelines.run import Run
from genscale.protocol.interfaces import Sampler
from genscale.results.result import SearchResult
from genscale.results.run_description import RunDescription


def open_run(
    run: Run,
    sampler: Sampler,
    roles: Roles,
    budget: Budget,
    *,
    batch_size: int,
    decode_batch: int | None = None,
    folder: Path | None,
    heading: dict[str, Any],
    keep: int,
    on_event: Callable[[Event], None],
    stop: Stop | None = None,
    halt: Callable[[], bool] = lambda: False,
    finish: bool = True,
    describe: Callable[[], RunDescription] | None = None,
) -> tuple[SearchResult, Any]:
    """Search, and let the pipeline finish, unless told not to: (result, the pipeline's output or None)."""
    run.judged = roles.calls > 0
    processes = run.processes()
    each = sum(processes[0]["evaluations"])
    if budget.nfe is not None and budget.nfe < each:
        raise UsageError(
            f"a budget of {budget.nfe}nfe is too small: one sample of {len(run.probe.evaluations)} steps takes {each}."
        )
    if budget.verifier_calls is not None and budget.verifier_calls < roles.calls:
        raise UsageError(
            f"a budget of {budget.verifier_calls} verifier calls is too small: one sample takes {roles.calls}."
        )
    view = processes[0]["view"]
    if "schedule" in getattr(sampler, "needs", ()) and isinstance(view, str):
        raise UsageError(view)
    searches = [
        Search.open(
            row,
            text,
            sampler,
            run.key(row),
            budget,
            roles,
            keep=max(keep, run.arguments.results),
            stop=stop,
            **process,
        )
        for row, (text, process) in enumerate(zip(run.texts, processes, strict=True))
    ]
    archive = Archive(folder, heading)  # after everything that may refuse: a refusal leaves no folder
    try:
        engine = Engine(
            searches, roles, run.decode, budget=budget, archive=archive, ledger=run.ledger,
            batch_size=batch_size, decode_batch=decode_batch or (1 if makes_clips(run.pipe) else None),
            on_event=on_event, halt=halt,
        )  # fmt: skip
        stopped = run.serve(engine, rated="mix" in getattr(sampler, "needs", ()))
    finally:
        archive.close()
    winners = [_winners(s, run.arguments.results) for s in searches]

    def decode(entries: Sequence[Entry]) -> Media:
        x = torch.stack([e.x for e in entries if e.x is not None])
        return run.decode(x, tuple(e.prompt for e in entries))

    result = SearchResult(
        tuple(searches), tuple(archive.entries), run.ledger, budget, run.seeds[0], decode, stopped, describe
    )
    if not finish:
        return result, None
    latents = torch.stack([x for rows in winners for x in rows])
    with run.ledger.clock("decode"):
        prompts = tuple(s.index for s, rows in zip(searches, winners, strict=True) for _ in rows)
        output = run.finish(latents, prompts, decode_batch)
    run.ledger.decodes += sum(map(len, winners))
    return result, output


def _winners(search: Search, count: int) -> list[Tensor]:
    ranking = search.ranking()
    if not ranking:
        raise UsageError(f"no candidate of '{search.prompt}' was finished within the budget: allow more.")
    return [e.x for e in ranking[:count] if e.x is not None]
