"""The defaults of a request, and checks of its settings that need no model."""

from __future__ import annotations

from dataclasses import replace

from genscale.engine.ensembles import CATEGORY, ENSEMBLES
from genscale.engine.selection import Selection
from genscale.engine.verifier_roles import verifier_set
from genscale.errors import UsageError, did_you_mean
from genscale.plugins import limits, options, registry
from genscale.plugins.automatic import AUTO, OTHERWISE, sampler_for
from genscale.report import audio_files, image_files
from genscale.runs import verifier_specs
from genscale.runs.further_arguments import check_further_arguments
from genscale.runs.named_code import names_code
from genscale.runs.option_metadata import options_of
from genscale.runs.request import Request

NONE = ("none",)  # --held-out none


def completed(request: Request) -> Request:
    """The request with the defaults of its model written out, and the sampler's options as their types."""
    from genscale.pipelines.loading import EMBEDDED

    request = replace(request, sampler=sampler_of(request))
    cls = registry.load("sampler", request.sampler)
    fields = options.typed("sampler", request.sampler, cls, request.sampler_fields)
    request = replace(request, sampler_fields=fields)
    goes_with = EMBEDDED.get(request.model)
    verifiers = verifiers_of(request)
    if goes_with is None:
        return replace(request, verifiers=verifiers)
    held_out = request.held_out
    if not held_out and goes_with.held_out not in (*verifiers, *request.select):
        held_out = (goes_with.held_out,)
    return replace(
        request,
        verifiers=verifiers,
        held_out=held_out,
        steps=goes_with.steps if request.steps is None else request.steps,
        guidance=goes_with.guidance if request.guidance is None else request.guidance,
        width=goes_with.size if request.width is None else request.width,
        height=goes_with.size if request.height is None else request.height,
        frames=goes_with.frames if request.frames is None else request.frames,
        fps=goes_with.fps if request.fps is None else request.fps,
        decode_batch=request.batch_size  # videos are small
        if request.decode_batch is None and goes_with.frames
        else request.decode_batch,
        pipeline_args={
            **({"max_sequence_length": goes_with.tokens} if goes_with.tokens else {}),
            **request.pipeline_args,
        },
    )


def verifiers_of(request: Request) -> tuple[str, ...]:
    """The verifiers asked for, or those that go with the model."""
    from genscale.pipelines.loading import EMBEDDED

    goes_with = EMBEDDED.get(request.model)
    usual = "clap" if request.sound else "clip"
    return request.verifiers or (usual if goes_with is None else goes_with.verifier,)


def sampler_of(request: Request) -> str:
    """The sampler asked for; for "auto" the one that goes with the verifiers. These are made, and load nothing yet."""
    if request.sampler != AUTO:
        return request.sampler
    if request.arm or names_code(request.model):
        return OTHERWISE
    from genscale.pipelines.loading import EMBEDDED

    members = verifier_specs.weighted_verifiers(verifiers_of(request))
    goes_with = EMBEDDED.get(request.model)
    videos = request.clips or (goes_with is not None and goes_with.frames is not None)
    by_frames = videos and not all(getattr(verifier, "judges_videos", False) for verifier, _ in members)
    # Means over frames or regions are no probabilities, and ranks are none.
    # One that accepts the first good enough does not ask what is required of the winner.
    plain = not by_frames and request.boxes is None and request.ensemble == "weighted" and not request.require
    return sampler_for(AUTO, plain and verifier_set(members, request.ensemble).probability)


def check(request: Request) -> None:
    """Refuse settings of a completed request that are unknown or out of range."""
    limits.check_plugin("the request", request)
    for name, how in options_of(Request).items():
        for field in how.sets or (name,):
            how.refuse_out_of_range(getattr(request, field))
    if request.allocate is not None and not request.arm:
        raise UsageError("--allocate says which arm gets candidates: give --arm, too.")
    if request.arm and request.sampler != OTHERWISE:
        raise UsageError(
            f"--arm goes with the sampler {OTHERWISE}, not with {request.sampler}: leave one out."
        )
    limits.check_pixels(request.width, request.height, request.frames)
    check_further_arguments(request.pipeline_args)
    unknown = [kind for kind in request.formats if kind not in image_files.FORMATS]
    if unknown:
        raise UsageError(
            f"--formats '{unknown[0]}' is unknown: give {', '.join(image_files.FORMATS)} or several of them."
        )
    for kind in set(request.formats) & set(audio_files.FORMATS):
        audio_files.check_format(kind)
    if request.mix or request.guide is not None:
        from genscale.pipelines.mixture_sources import mix_of

        mix_of(request.mix, request.guide)
    Selection.of(request.require, request.abstain)
    if request.category_weights and request.ensemble != CATEGORY:
        raise UsageError(f"--category-weights goes with --ensemble {CATEGORY}: give both, or neither.")
    if request.ensemble not in ENSEMBLES:
        hint = did_you_mean(request.ensemble, ENSEMBLES)
        raise UsageError(
            f"ensemble '{request.ensemble}' is unknown{hint}: give one of {', '.join(ENSEMBLES)}."
        )
