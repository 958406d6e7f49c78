"""A request with everything it names found and checked, and its pipeline, loaded when it is first needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genscale.algorithms.arm_texts import arms_of
from genscale.algorithms.arms import Arms
from genscale.engine.budget import Budget
from genscale.engine.stopping import Stop
from genscale.errors import UsageError
from genscale.plugins import registry
from genscale.runs import verifier_specs
from genscale.runs.call_arguments import call_arguments, input_images
from genscale.runs.complete_request import NONE, check, completed
from genscale.runs.model_pipeline import load_model
from genscale.runs.request import Request
from genscale.runs.workers import workers_of

KEPT = 4  # candidates whose latents stay in memory: the best and the runners-up of a contact sheet

WeightedVerifiers = list[tuple[Any, float]]


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """One run, ready to be planned or searched.

    request: completed. verifiers, select, held_out: (verifier, weight). images: opened input images, by argument name.
    load: gives the pipeline; it loads it once. `dataclasses.replace` changes a part and keeps the pipeline.
    """

    request: Request
    sampler: Any
    verifiers: WeightedVerifiers
    select: WeightedVerifiers
    held_out: WeightedVerifiers
    budget: Budget | None
    stop: Stop | None
    images: dict[str, Any]
    load: Callable[[], Any]
    pool: bool = False
    draft: Any = None

    @staticmethod
    def of(request: Request) -> PreparedRun:
        """Complete the request, find what it names, check it. No model is loaded. UsageError: what is not possible."""
        request = completed(request)
        alone = PreparedRun.without_search(request)
        verifiers = verifier_specs.weighted_verifiers(request.verifiers)
        if request.boxes is not None:
            verifiers = verifier_specs.with_boxes(verifiers, request.boxes, request.prompts)
        return replace(
            alone,
            sampler=_sampler(request),
            verifiers=verifiers,
            select=verifier_specs.weighted_verifiers(request.select),
            held_out=[] if request.held_out == NONE else verifier_specs.weighted_verifiers(request.held_out),
            budget=None if request.budget is None else Budget.parse(request.budget),
            stop=verifier_specs.with_guards(Stop.of(request.stop)),
            pool=request.pool,
            draft=_draft(request),
        )

    @staticmethod
    def without_search(request: Request) -> PreparedRun:
        """Of a completed request, its pipeline and input images only: to decode, or to draw single candidates.

        UsageError: a setting is out of range, or an image cannot be read.
        """
        check(request)
        images = input_images(request)
        load = functools.cache(functools.partial(load_model, request, tuple(images)))
        return PreparedRun(request, None, [], [], [], None, None, images, load)

    @property
    def arms(self) -> tuple[Any, ...]:
        """What each arm changes in the call; empty without arms."""
        return arms_of(self.request.arm)

    def with_pipe(self, pipe: Any) -> PreparedRun:
        """The same with a pipeline that is loaded already."""
        return replace(self, load=lambda: pipe)

    @property
    def pipe(self) -> Any:
        """The pipeline; loaded at the first access."""
        return self.load()

    def with_frame_rate(self) -> PreparedRun:
        """With the pipeline's own frame rate in the request, where it has one and none was asked for."""
        request = self.request
        from genscale.pipelines.call_signature import defaults_of

        own = defaults_of(self.pipe).get("frame_rate")
        given = request.fps or request.pipeline_args.get("frame_rate") or request.pipeline_args.get("fps")
        if given or not isinstance(own, int | float):
            return self
        return replace(self, request=replace(request, fps=float(own)))

    def pipeline_alone(self) -> PreparedRun:
        """The same with a single candidate, the pipeline's own."""
        one = registry.make("sampler", "best_of_n", {"candidates": 1})
        request = replace(self.request, images=1, arm=(), allocate=None, draft=None)
        return replace(self, request=request, sampler=one, budget=None, stop=None, pool=False, draft=None)

    def call(self) -> dict[str, Any]:
        """The keyword arguments of the pipeline's call, with a generator that is fresh each time."""
        return call_arguments(self.pipe, self.request, self.images)

    def seeded_call(self) -> dict[str, Any]:
        """The same, and torch's global generator seeded: pipelines draw from it where they hand on no generator."""
        import torch

        torch.manual_seed(self.request.seed or 0)
        return self.call()

    def plan(self) -> Any:
        """What the search would spend. UsageError: the pipeline refuses its arguments."""
        from genscale.pipelines.placement import first_line

        try:
            return self.scaled().plan(**self.call())
        except UsageError:
            raise
        except Exception as error:
            if not self.request.pipeline_args and not isinstance(error, ValueError | TypeError):
                raise
            raise UsageError(
                f"{type(self.pipe).__name__} refuses its arguments: {first_line(error)}"
            ) from error

    def scaled(
        self,
        out: Path | None = None,
        on_event: Callable[[Any], None] | None = None,
        halt: Callable[[], bool] | None = None,
        preview: bool = False,
    ) -> Any:
        """The pipeline with the search inside; arguments as of `genscale.scale`."""
        from genscale.pipelines.loading import makes_videos
        from genscale.pipelines.mixture_sources import named_models
        from genscale.pipelines.scale import scale

        request, stop, roles = self.request, self.stop, [self.verifiers, self.select, self.held_out]
        if makes_videos(self.pipe):
            roles = [verifier_specs.on_frames(members, request.per_frame) for members in roles]
            stop = stop and stop.with_verifiers(
                lambda v: verifier_specs.on_frames([(v, 1.0)], request.per_frame)[0][0]
            )
        verifiers, select, held_out = roles
        models = named_models(
            request.mix,
            dtype=request.dtype,
            device=request.device,
            offload=request.offload,
            variant=request.variant,
            revision=None,
            trust_remote_code=request.trust_remote_code,
        )
        return scale(
            self.pipe,
            sampler=self.sampler,
            verifier=verifiers,
            select=select or None,
            held_out=held_out or None,
            ensemble=request.ensemble,
            category_weights=dict(request.category_weights) or None,
            require=request.require or None,
            abstain=request.abstain,
            budget=self.budget,
            stop=stop,
            pool=self.pool,
            draft=self.draft,
            batch_size=request.batch_size,
            decode_batch=request.decode_batch,
            pad_batches=request.pad_batches,
            hold=request.hold,
            executor=workers_of(request, tuple(self.images)),
            out=out,
            keep=max(request.images, KEPT),
            mix=request.mix or None,
            guide=request.guide,
            models=models,
            on_event=on_event,
            halt=halt,
            preview=preview,
        )


def _draft(request: Request) -> Any:
    """UsageError: it cannot be read."""
    if request.draft is None:
        return None
    from genscale.pipelines.draft import Draft

    return Draft.parse(request.draft)


def _sampler(request: Request) -> Any:
    """The sampler of a completed request. UsageError: it has an option that does not go with arms."""
    made = registry.make("sampler", request.sampler, dict(request.sampler_fields))
    if not request.arm:
        return made
    for name in request.sampler_fields:
        if name not in ("candidates", "wave") and getattr(made, name):
            raise UsageError(f"--{name} is no option of several arms: leave it or --arm out.")
    return Arms(arms_of(request.arm), request.allocate or "even", made.candidates, wave=made.wave or 1)
