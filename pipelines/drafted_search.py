"""A search of drafts, and the best of them made in full: two searches, one after the other, under one budget.

The drafts are searched by the sampler on a cheaper call of the pipeline, with the keys of the call itself, so that
draft and candidate start from the same noise. Then the `keep` best drafts of each prompt are made by the pipeline's own
call from that noise, bit for bit what the pipeline alone gives, and these alone can win.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from genscale.algorithms.draft_recipes import Commit, Noted, Recipe, Recipes
from genscale.engine.budget import Budget
from genscale.engine.events import Denoised, Differentiated, Event, Scored
from genscale.engine.plan import Plan, simulate
from genscale.engine.search import Search
from genscale.engine.verifier_roles import VerifierSet
from genscale.errors import AllCandidatesFailed, UsageError
from genscale.key import Key
from genscale.pipelines.arms import ArmSettings
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.call_signature import call_signature
from genscale.pipelines.decode import Decoder
from genscale.pipelines.draft import Draft
from genscale.pipelines.loop_noise import global_states, restore_global
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.pipeline_lock import Claim
from genscale.pipelines.pipeline_noise import generator_states, restore_generators
from genscale.pipelines.search_call import Part, PipelineHost, plan_of, run_search
from genscale.pipelines.search_settings import SearchSettings
from genscale.plugins import registry
from genscale.results.result import SearchResult

FOLDER = "drafts"  # of their archive, in that of the search
LOOKED_AT = 256  # scorings of a search that are looked at before anything is spent
SHARE_OF_SECONDS = 0.5  # of a budget's seconds for the drafts (ours); candidates get what is left

Recorded = dict[tuple[int, ...], Recipes]


class DraftedHost(PipelineHost):
    """The call of a pipeline whose candidates are drafted. drafts: the call that drafts them."""

    def __init__(self, call: PipelineCall, decoder: Decoder, drafts: DraftHost) -> None:
        super().__init__(call, decoder)
        self.drafts = drafts

    def heading(self, settings: SearchSettings, complete: bool = True) -> dict[str, Any]:
        """As without drafts, and how they are made. The archive of the drafts has a full heading of its own; how many
        are kept is a limit, which may change."""
        return {**super().heading(settings, complete), "draft": self.drafts.draft.way}


class DraftHost(PipelineHost):
    """The cheaper call, with the seeds and keys of the call itself."""

    def __init__(
        self, call: PipelineCall, decoder: Decoder, draft: Draft, arm: ArmSettings, own: PipelineCall
    ) -> None:
        super().__init__(call, decoder)
        self.draft, self.arm, self.seeds, self.own = draft, arm, own.seeds, own

    def key(self, row: int) -> Key:
        return self.own.key(row)

    def applied(self) -> Any:
        return self.draft.applied(self.arm)

    def settings(self, asked: SearchSettings, budget: Budget) -> SearchSettings:
        """Of the search of the drafts. Held-out verifiers measure results, and drafts are none."""
        return replace(
            asked,
            pipe=self.arm.function,
            roles=replace(asked.roles, held_out=VerifierSet(())),
            budget=budget,
            out=None if asked.out is None else Path(asked.out) / FOLDER,
            keep=1,
            draft=None,
            preview=asked.preview
            if self.draft.decoder is None or asked.preview is not True
            else self.draft.decoder,
        )

    def heading(self, settings: SearchSettings, complete: bool = True) -> dict[str, Any]:
        return {**super().heading(settings, complete), "seeds": self.seeds, "decoder": _name(self.draft.decoder),
                "cache": _name(self.draft.cache)}  # fmt: skip


def _name(part: Any) -> str | None:
    return None if part is None else repr(part)


def drafted_host(
    settings: SearchSettings, args: tuple[Any, ...], kwargs: Mapping[str, Any], call: PipelineCall, decoder: Decoder,
    states: Any,
) -> DraftedHost:  # fmt: skip
    """The host of a call with drafts. states: of the generators before the call was probed, as `noise_states` gives.

    UsageError: the draft changes what the call does not take, or makes latents of another shape.
    """
    draft = settings.draft
    assert draft is not None
    arm, generator = draft.arm(settings.pipe), kwargs.get("generator")
    given = dict(kwargs) | dict(zip(call_signature(type(settings.pipe)).positions, args, strict=False))
    given = {**given, **arm.changes}
    after = noise_states(settings.pipe, generator)
    restore_noise(settings.pipe, generator, states)
    with draft.applied(arm):
        made = PipelineCall(arm.function, Arguments(arm.function, (), given), settings.mix, settings.models)
        drafts = DraftHost(made, Decoder(made, with_callback=True), draft, arm, call)
    restore_noise(settings.pipe, generator, after)
    if made.latents.shape != call.latents.shape:
        raise UsageError(
            f"a draft has latents of shape {list(made.latents.shape[1:])}, the call {list(call.latents.shape[1:])}: "
            "they cannot start from the same noise, so give a draft of the same shape."
        )
    if draft.keep < call.arguments.results:
        raise UsageError(
            f"keep={draft.keep} of the draft is fewer than the {call.arguments.results} images or videos that are "
            "asked for: keep as many."
        )
    return DraftedHost(call, decoder, drafts)


def noise_states(pipe: Any, generator: Any) -> tuple[Any, Any]:
    """The states of a call's generators and of torch's global ones."""
    device = torch.device(getattr(pipe, "device", "cpu"))
    return generator_states(generator), global_states(device)


def restore_noise(pipe: Any, generator: Any, states: tuple[Any, Any]) -> None:
    restore_generators(generator, states[0])
    restore_global(states[1], torch.device(getattr(pipe, "device", "cpu")))


@dataclass
class _Told:
    """The events of both searches as those of one: NFE are of the whole, and drafts are marked."""

    tell: Callable[[Event], None]
    cost: float
    drafts: int = field(default=0, init=False)  # NFE

    def of_drafts(self, event: Event) -> None:
        if isinstance(event, Denoised | Differentiated):
            self.drafts = math.ceil(self.cost * event.evaluations)
            event = replace(event, evaluations=self.drafts)
        self.tell(replace(event, draft=True) if isinstance(event, Scored) else event)

    def of_candidates(self, event: Event) -> None:
        if isinstance(event, Denoised | Differentiated):
            event = replace(event, evaluations=self.drafts + event.evaluations)
        self.tell(event)


def run_drafted(host: DraftedHost, settings: SearchSettings, claim: Claim) -> SearchResult:
    """Search the drafts, make the best in full; the result has the drafts as `.drafts`.

    Raises as `run_search`. KeyboardInterrupt: interrupted before the drafts were complete; with `out` the same call
    goes on with them.
    """
    draft, drafts = host.drafts.draft, host.drafts
    whole, ours = _budgets(host, settings)
    recorded: Recorded = {}
    told = _Told(settings.on_event, draft.cost)
    with drafts.applied():
        asked = replace(drafts.settings(settings, ours), on_event=told.of_drafts)
        _check_drafts(host, asked)
        part = Part(asked, [(0, 0)] * len(drafts.texts), 0.0)
        try:
            found = run_search(drafts, replace(asked, sampler=Noted(settings.sampler, recorded)), claim, part)
        except AllCandidatesFailed as error:
            raise AllCandidatesFailed(f"of the drafts, {error}", None) from error
    if found.stopped is not None and not settings.halt():
        raise KeyboardInterrupt
    keys = [host.key(row).fold(*settings.line).path for row in range(len(host.texts))]
    chosen = {key: _best(draft, found, row, recorded[key]) for row, key in enumerate(keys)}
    spent = [(math.ceil(draft.cost * s.spent), s.calls) for s in found.searches]
    commit = replace(
        settings,
        sampler=Commit(draft.keep, chosen),
        budget=whole,
        stop=None,
        on_event=told.of_candidates,
        preview=False,  # there are pictures of drafts by now
    )
    seconds = max((e.seconds for e in found.entries), default=0.0)
    result = run_search(host, commit, claim, Part(settings, spent, seconds))
    host.ledger.add(drafts.ledger)
    return replace(result, drafts=found)


def _best(draft: Draft, found: SearchResult, row: int, recipes: Recipes) -> tuple[Recipe, ...]:
    """The recipes of the best drafts of a prompt, best first."""
    search = found.searches[row]
    made = [(entry, recipes.of(entry.candidate)) for entry in search.ranking()]
    again = [(entry, recipe) for entry, recipe in made if recipe is not None]
    if not again:
        raise _not_again("the sampler")
    totals = search.totals([entry for entry, _ in again])
    return tuple(recipe for _, recipe in again[: draft.chosen(totals)])


def _not_again(sampler: str) -> UsageError:
    return UsageError(
        f"draft= needs candidates that the pipeline alone makes of their starting noise, and {sampler} moves them "
        "otherwise on the way: use best_of_n, zero_order, successive_halving or another search of noises."
    )


def _check_drafts(host: DraftedHost, asked: SearchSettings) -> None:
    """UsageError: the sampler, run without a model as for a plan, finishes candidates that cannot be made again, or
    fewer than are to be kept."""
    recorded: Recorded = {}
    key, name = Key((0,)), registry.name_of("sampler", type(asked.sampler))
    search = Search.open(
        0, "", Noted(asked.sampler, recorded), key, asked.budget, asked.roles, results=host.drafts.results,
        stop=asked.stop, **host.drafts.processes()[0],
    )  # fmt: skip
    for is_preview in islice(simulate(search), LOOKED_AT):
        some = search.particles.candidates[: search.affordable()]
        if not is_preview and any(recorded[key.path].of(c) is None for c in some):
            raise _not_again(name)
    keep, decided = host.drafts.draft.keep, not hasattr(asked.sampler, "accepts")  # else by scores
    if decided and search.query is None and search.finished < keep:
        raise UsageError(
            f"keep={keep} of the draft is more than what {name} would draft of a prompt, {search.finished}: "
            "keep fewer, or allow more candidates or a larger budget."
        )


def _budgets(host: DraftedHost, settings: SearchSettings) -> tuple[Budget, Budget]:
    """The budget of the whole search, and the drafts' part of it: what `keep` whole candidates leave.

    UsageError: they leave not enough for one draft, or a draft costs more than a candidate.
    """
    draft = host.drafts.draft
    each, drafted = (sum(h.processes()[0]["evaluations"]) for h in (host, host.drafts))
    whole = settings.budget.resolved(each)
    nfe, calls = whole.nfe, whole.verifier_calls
    if draft.cost * drafted > each:
        raise UsageError(
            f"one draft would take {math.ceil(draft.cost * drafted)} NFE, more than the {each} of a candidate in full: "
            "give a cheaper draft, such as one of fewer steps."
        )
    if nfe is not None:
        nfe = math.floor((nfe - draft.keep * each) / draft.cost)
        if nfe < drafted:
            raise UsageError(
                f"a budget of {whole.nfe}nfe is too small: {draft.keep} whole candidates take {draft.keep * each} and "
                f"one draft {math.ceil(draft.cost * drafted)}; allow more, or keep fewer drafts."
            )
    if calls is not None:
        calls -= draft.keep * settings.roles.calls
        if calls < settings.roles.calls:
            raise UsageError(
                f"a budget of {whole.verifier_calls} verifier calls is too small for {draft.keep} whole candidates "
                "and a draft: allow more, or keep fewer drafts."
            )
    seconds = None if whole.seconds is None else SHARE_OF_SECONDS * whole.seconds
    # A target is one of results: drafts are not told of it.
    return whole, Budget(nfe=nfe, verifier_calls=calls, seconds=seconds)


def plan_drafted(host: DraftedHost, settings: SearchSettings) -> Plan:
    """What the search would cost, drafts included; `drafts` is how many are made. UsageError: it cannot be made."""
    whole, ours = _budgets(host, settings)
    draft, asked = host.drafts.draft, host.drafts.settings(settings, ours)
    _check_drafts(host, asked)
    first = plan_of(host.drafts, asked)
    then = plan_of(host, replace(settings, sampler=Commit(draft.keep, {}), budget=whole, stop=None))
    made = then.candidates if first.candidates is None else min(draft.keep, first.candidates)

    def both(drafts: int | None, each: int | None, cost: float = 1.0) -> int | None:
        """Of all drafts, and of the candidates, of each of which it costs so much."""
        if drafts is None or each is None or made is None:
            return None
        return math.ceil(cost * drafts) + made * each

    return replace(
        then,
        cost=both(first.cost, then.nfe_per_candidate, draft.cost),
        nfe=both(first.nfe, then.nfe_per_candidate, draft.cost),
        verifier_calls=both(first.verifier_calls, settings.roles.calls),
        candidates=made,
        keeps_own=False,
        drafts=first.candidates,
        nfe_per_draft=first.nfe_per_candidate,
        held=None
        if first.held is None
        else max(first.held, then.held or first.held, key=lambda held: held.bytes),
    )
