"""`genscale.scale(pipe, ...)`: any diffusers pipeline, called as before, with a search inside.

The map of all that happens in a call is in `genscale.pipelines`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from genscale.algorithms.arms import Arms
from genscale.diffusion.mixtures import Mix
from genscale.engine.backbones import warn_of_reports
from genscale.engine.budget import Budget
from genscale.engine.events import Event
from genscale.engine.holding import DEVICE
from genscale.engine.plan import Plan
from genscale.engine.search_rules import guard_set
from genscale.engine.selection import Selection
from genscale.engine.stopping import Stop, StopRule
from genscale.engine.verifier_roles import Roles, verifier_set
from genscale.errors import NoLoop, UsageError, did_you_mean
from genscale.pipelines.batch_padding import AS_THEY_ARE
from genscale.pipelines.black_box import ScaledGenerator, black_box_of, generated, is_black_box
from genscale.pipelines.black_box_call import BlackBoxCall
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.decode import Decoder
from genscale.pipelines.draft import Draft
from genscale.pipelines.drafted_search import (
    DraftedHost,
    drafted_host,
    noise_states,
    plan_drafted,
    run_drafted,
)
from genscale.pipelines.further_loops import check_further_loops
from genscale.pipelines.kind_checks import check_kinds, check_kinds_by_decoding
from genscale.pipelines.mixture_sources import mix_of
from genscale.pipelines.modular_outputs import StateOutput, with_search
from genscale.pipelines.modular_presets import with_components
from genscale.pipelines.pipeline_arm import PipelineSource, pipeline_arms
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.pipeline_lock import WAIT, Claim, claimed
from genscale.pipelines.pipeline_noise import generator_states, restore_generators
from genscale.pipelines.probe_memory import ProbeMemory
from genscale.pipelines.prompt_texts import check_texts
from genscale.pipelines.scaled_attributes import StandsForPipeline
from genscale.pipelines.search_call import PipelineHost, finish_best, plan_of, run_search
from genscale.pipelines.search_settings import SearchSettings, ignore, never
from genscale.pipelines.settings_checks import check_sampler, check_settings
from genscale.pipelines.spread_host import Executor, SpreadHost, as_given, check_spread, executor_of
from genscale.plugins import registry
from genscale.plugins.automatic import AUTO, OTHERWISE, sampler_for
from genscale.plugins.options import check_automatic
from genscale.protocol.interfaces import Sampler, SamplerHooks
from genscale.results.result import SearchResult

Made = TypeVar("Made")


class Scaled(StandsForPipeline):
    """A pipeline with a search inside. Made by `scale`; every other attribute is the pipeline's own.

    Threads may share it: searches on one pipeline, and on pipelines that share models with it, run one after the other.
    """

    def __init__(self, settings: SearchSettings) -> None:
        super().__init__(settings)
        object.__setattr__(self, "_memory", ProbeMemory())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call as the pipeline itself. Returns its output class, best first, with the search as `.search`.

        num_images_per_prompt (num_videos_per_prompt) is how many of the best come back for each prompt.
        generator gives candidate 0 its latents, as in the pipeline alone, and its seed to all other
        randomness; a list with one for each image gives them to as many candidates. A call with prompt_embeds and no
        prompt tells the verifiers what it shows by texts=, a text or one for each prompt. With return_dict=False the
        SearchResult is the last member of the tuple.

        A candidate whose latents, pixels or scores are NaN or infinite is dropped, and the others go on:
        `.search.dropped(prompt)` lists such candidates.

        Raises UsageError for what cannot be done (nothing is written then), AllCandidatesFailed if all
        candidates of a prompt were dropped (its `result` holds what the others found), VerifierError when
        a verifier fails (what was found stays in the archive), KeyboardInterrupt (Ctrl-C) before anything was
        finished; after that it returns the best so far. What models, callbacks and other code raise comes
        through unchanged. A callback that sets `pipe._interrupt` gets the best of what exists: finished
        candidates, and the latents under way, decoded as they are (`.search.stopped` is "interrupted").
        """
        with self._claimed() as claim:
            return self._or_whole(
                args, kwargs, partial(self._output, claim), lambda whole: whole(*args, **kwargs)
            )

    def search(self, *args: Any, **kwargs: Any) -> SearchResult:
        """The same without the pipeline's output: nothing more is decoded, so memory does not grow with the prompts.

        `result.media(entries)` decodes the entries asked for. Raises as the call does.
        """
        with self._claimed() as claim:

            def found(host: PipelineHost | BlackBoxCall) -> SearchResult:
                return self._found(claim, host)

            return self._or_whole(args, kwargs, found, lambda whole: whole.search(*args, **kwargs))

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would cost. Nothing is generated or written."""
        with self._claimed():
            return self._or_whole(
                args,
                kwargs,
                self._planned,
                lambda whole: whole.plan(*args, **kwargs),
            )

    def _planned(self, host: PipelineHost | BlackBoxCall) -> Plan:
        return (
            plan_drafted(host, self.settings)
            if isinstance(host, DraftedHost)
            else plan_of(host, self.settings)
        )

    def _found(self, claim: Claim, host: PipelineHost | BlackBoxCall) -> SearchResult:
        if isinstance(host, DraftedHost):
            return run_drafted(host, self.settings, claim)
        return run_search(host, self.settings, claim)

    def _output(self, claim: Claim, host: PipelineHost | BlackBoxCall) -> Any:
        result = self._found(claim, host)
        if isinstance(host, BlackBoxCall):
            return generated(host, result)
        output = finish_best(host.call, self.settings, host.decoder, result)
        return _with_search(output, result, host.call.arguments.output)

    def _or_whole(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        owned: Callable[[PipelineHost | BlackBoxCall], Made],
        whole: Callable[[ScaledGenerator], Made],
    ) -> Made:
        """What `owned` makes of the call's host, or `whole` of the pipeline as a black box, where it has no loop."""
        state = generator_states(kwargs.get("generator"))
        try:
            return owned(self._host(args, kwargs))
        except NoLoop as error:
            if self.settings.draft is not None:
                raise  # a call as a whole has no steps to draft with
            restore_generators(kwargs.get("generator"), state)  # the probe may have drawn from it
            return whole(black_box_of(self.settings, error))

    def _claimed(self) -> AbstractContextManager[Claim]:
        made = self.settings
        others = [arm["model"] for arm in SamplerHooks.of(made.sampler).arms if callable(arm.get("model"))]
        drafted = () if made.draft is None else (made.draft.model, made.draft.decoder)
        others += [made.preview] if callable(made.preview) else []
        others += [part for part in drafted if callable(part)]
        return claimed(made.pipe, [*made.models.values(), *others], made.busy)

    def _host(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PipelineHost | BlackBoxCall:
        made, arms = self.settings, SamplerHooks.of(self.settings.sampler).arms
        check_kinds(made.pipe, made.roles)
        if not arms:
            states = None if made.draft is None else noise_states(made.pipe, kwargs.get("generator"))
            given = None if made.executor is None else as_given(made.pipe, args, kwargs)
            call, decoder = self._probed(args, kwargs)
            if given is not None:
                return SpreadHost(call, decoder, made.executor, given)
            if states is None:
                return PipelineHost(call, decoder)
            return drafted_host(made, args, kwargs, call, decoder, states)
        ways = pipeline_arms(made, args, kwargs, arms)
        self._prepare(ways[0].call)
        return BlackBoxCall(made, PipelineSource(ways[0]), ways)

    def _probed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[PipelineCall, Decoder]:
        made = self.settings
        memory: ProbeMemory = self.__dict__["_memory"]
        call = PipelineCall(made.pipe, Arguments(made.pipe, args, kwargs), made.mix, made.models, memory)
        decoder = Decoder(call, with_callback=made.roles.calls > 0)
        check_further_loops(call, decoder)
        check_kinds_by_decoding(call, decoder, made.roles)
        self._prepare(call)
        return call, decoder

    def _prepare(self, call: PipelineCall) -> None:
        """Verifiers load what they need. UsageError: they cannot score this call."""
        check_texts(call.arguments.prompt_texts, call.arguments.given, self.settings.roles)
        self.settings.roles.prepare(call.texts, call.latents.device)


def scale(
    pipe: Any, sampler: str | Sampler = AUTO, verifier: Any = None, *, select: Any = None, held_out: Any = None,
    ensemble: str = "weighted", budget: Budget | str | None = None, decode_batch: int | None = None,
    stop: Stop | StopRule | Sequence[StopRule] | str | None = None, batch_size: int = 16, abstain: Any = None,
    out: str | Path | None = None, keep: int = 1, on_event: Callable[[Event], None] | None = None,
    mix: Mix | str | Sequence[str] | None = None, guide: Any = None, models: Mapping[str, Any] | None = None,
    halt: Callable[[], bool] | None = None, busy: str = WAIT, report: Any = None, pad_batches: str = AS_THEY_ARE,
    verifier_timeout: float | None = None, pool: bool = False, components: Any = None, hold: str = DEVICE,
    draft: Draft | str | None = None, preview: Any = False, executor: Executor | str | None = None,
    require: Any = None, category_weights: Any = None, **options: Any,
) -> Scaled | ScaledGenerator:  # fmt: skip
    """Put a search into a diffusers pipeline; the pipeline itself stays as it is.

    pipe: the pipeline, or modular pipeline; of a scaled one its pipeline, so that this search takes the other's place.
        Or any `f(prompt=..., generator=... or seed=...)` that returns an image or video: called once a candidate.
    sampler: a name (`genscale samplers` lists them) with its fields as further keyword arguments, or an object. "auto":
        accept_reject where one verifier answers a probability and steers alone, best_of_n otherwise.
    verifier: what steers the search: a name, an object, a callable `(media, prompts) -> scores`, a pair (any of these,
        weight), or a list, joined by `ensemble` (genscale.engine.ensembles). None only where nothing is chosen.
    select: what picks the winner, if not the same. held_out: a score that only measures (report: its former name).
    budget: a Budget, or text such as "16images" (the compute of 16 images of the pipeline alone), "480nfe", "60s" or
        "480nfe,60s"; all but seconds are per prompt.
    stop: when a prompt's scores say that it is enough: text such as "patience:8", "gain:0.02", "adaptive:0.9" or
        several joined by commas, or rules (genscale.engine.stopping).
    batch_size: latents through the model at once; halved when memory runs out. pad_batches: "full" fills calls up to
        it, "buckets" to powers of two, for compiled models.
    decode_batch: latents decoded at once; None: batch_size of images, 1 of videos, and the results all together.
    out: folder for the archive; a call with the same arguments resumes what is there. keep: how many of the best
        candidates keep their latents, for `result.search.media`. on_event: called with every progress event.
    mix: predictions to combine at every model call (genscale.diffusion.mixtures): a Mix such as `rlg("base", 1.6)`, or
        texts such as "base:-0.6", "prompt=a dog:0.3", "weak:-1"; the pipeline's own prediction has what is left to 1.
    guide: how the branches of guidance are combined, in place of the pipeline's own rule: a Mix such as
        `Cfg(7.5, start=0.2, stop=0.8)`, a guider of `diffusers.guiders`, or text such as "cfg(7.5, 0.2, 0.8)".
    models: pipelines or modules that share the latent space, under the names that the mix uses.
    halt: called before every batch; once it returns True the search ends as by an interrupt, when all have a candidate.
    busy: while another thread searches with this pipeline or its models: "wait", or "refuse" with a UsageError.
    verifier_timeout: seconds that a call of a verifier without a `timeout` of its own may take, else a VerifierError.
    pool: one budget for all prompts: "4images" of 10 prompts are 40 images, which go where they are expected to gain
        most, after one for each. Needs a verifier, and a sampler that can be asked, such as best_of_n.
    hold: where latents wait between model calls: "device", or "host" (the CPU's memory, for large populations).
    draft: how to make candidates cheaper while searching: a genscale.Draft, or its text, such as "steps=6,keep=2".
    preview: tell of candidates under way (Estimated): True, or an AutoencoderTiny that makes the pictures.
    executor: who evaluates, decodes and scores: "local", or worker processes, "processes:4" or genscale.Processes(4).
    require: what the winner must satisfy, such as "nsfw<0.1", or several. abstain: keep the pipeline's own candidate
        unless another's total is higher by more than this: a number, or "2sd", of the verifiers' noise.
    category_weights: {category: {verifier: weight}} of the ensemble "category" (genscale.engine.prompt_category).
    components: for `pipe=` a preset of modular blocks, which has none: a mapping, or a pipeline that has them.
    """
    check_settings(
        batch_size=batch_size, keep=keep, decode_batch=decode_batch, out=out, on_event=on_event, halt=halt,
        models=models, mix=mix, pool=pool, busy=busy, pad_batches=pad_batches, hold=hold, preview=preview,
    )  # fmt: skip
    pipe = with_components(_inner(pipe), components)
    rules = Stop.of(stop)
    choice = (category_weights, Selection.of(require, abstain))
    roles = _roles(verifier, select, held_out, report, ensemble, rules, verifier_timeout, *choice)
    return _searching(SearchSettings(
        pipe, _sampler(pipe, sampler, options, roles), roles, Budget.of(budget), batch_size, decode_batch,
        None if out is None else Path(out), keep, on_event or ignore, rules, mix_of(mix, guide), dict(models or {}),
        halt or never, {n: v for n, v in (("mix", mix), ("guide", guide)) if v is not None}, busy=busy, hold=hold,
        pool=pool, pad_batches=pad_batches, draft=Draft.of(draft), preview=preview, executor=executor_of(executor),
    ))  # fmt: skip


def _inner(pipe: Any) -> Any:
    return pipe.settings.pipe if type(pipe) in (Scaled, ScaledGenerator) else pipe


def _searching(made: SearchSettings) -> Scaled | ScaledGenerator:
    if made.executor is not None:
        check_spread(made)
    if not is_black_box(made.pipe):
        return Scaled(made)
    if made.draft is not None:
        raise UsageError(
            "a draft needs a diffusers pipeline: what is called as a whole has no steps to leave out, so give no draft."
        )
    return ScaledGenerator(made)


def _sampler(pipe: Any, sampler: Any, given: dict[str, Any], roles: Roles) -> Sampler:
    if sampler == AUTO and is_black_box(pipe):
        sampler = OTHERWISE  # accept_reject looks at previews
    if sampler == "arms" or (sampler in (AUTO, OTHERWISE) and "arms" in given):
        return armed(given)
    if isinstance(sampler, str):
        name = sampler_for(sampler, roles.search.probability and not roles.selection.requires)
        if sampler == AUTO:
            check_automatic(name, given)
        sampler = registry.make("sampler", name, given)
    elif given:
        raise UsageError(
            f"options {', '.join(given)} go with a sampler's name; set them on the sampler object."
        )
    return check_sampler(sampler)


def armed(options: Mapping[str, Any]) -> Arms:
    """The sampler of several arms. UsageError: it has no such option."""
    known = [f.name for f in fields(Arms)]
    for name in options:
        if name not in known:
            raise UsageError(
                f"arms have no option '{name}'{did_you_mean(name, known)}: they have {', '.join(known)}."
            )
    return Arms(**options)


def _roles(
    verifier: Any,
    select: Any,
    held_out: Any,
    report: Any,
    ensemble: str,
    stop: Stop | None,
    timeout: float | None,
    category_weights: Any,
    selection: Selection,
) -> Roles:
    if report is not None and held_out is not None:
        raise UsageError("held_out= and its former name report= are both given: give held_out= alone.")
    held_out = report if held_out is None else held_out
    roles = Roles(
        verifier_set(verifier, ensemble, timeout),
        verifier_set(select, ensemble, timeout),
        verifier_set(held_out, "weighted", timeout),
        guard_set(stop, timeout),
        selection,
    )
    if category_weights is not None:
        roles = roles.by_category(category_weights)
    warn_of_reports(roles, stacklevel=4)
    return roles


def _with_search(output: Any, result: SearchResult, asked: Any) -> Any:
    """asked: what a modular pipeline is to return."""
    if isinstance(output, StateOutput):
        return with_search(output.returned(asked), result)
    if isinstance(output, tuple):
        return (*output, result)
    object.__setattr__(output, "search", result)
    return output
