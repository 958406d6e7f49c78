"""Carrying a request out: check everything that can be checked first, load, search, write."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from genscale.engine.events import Event
from genscale.errors import UsageError
from genscale.plugins import registry
from genscale.runs import outputs
from genscale.runs.call_arguments import arguments, pictures
from genscale.runs.live_preview import Preview
from genscale.runs.prepare import Parts, check, completed
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder


def plan(request: Request, display: Display) -> dict[str, Any]:
    """What a request would spend; the model is loaded, nothing is generated and nothing written."""
    request = completed(request)
    parts = check(request)
    with display.busy(f"loading {request.model}"):
        pipe = load_pipe(request, parts)
    request = replace(request, seed=request.seed or 0)
    found = planned(scaled_pipe(pipe, request, parts), pipe, request, parts)
    return {
        "model": request.model,
        "sampler": outputs.sampler_record(request, parts.sampler),
        "verifiers": {"search": request.verifiers, "select": request.select, "held_out": request.held_out},
        "budget": None if parts.budget is None else str(found.budget),
        "stop": None if parts.stop is None else str(parts.stop),
        "prompts": found.prompts,
        "steps": found.steps,
        "nfe_per_candidate": found.nfe_per_candidate,
        "cost_per_prompt": found.cost,
        "nfe_per_prompt": found.nfe,
        "nfe": None if found.nfe is None else found.nfe * found.prompts,
    }


def generate(
    request: Request,
    out: Path | None,
    display: Display,
    loaded: tuple[Any, Parts] | None = None,
    halt: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Carry a request out in a folder (a fresh one by default); what run.json holds, with the folder.

    loaded: the request's pipeline and parts, where they are there already. halt: as of `genscale.scale`.
    """
    request = completed(request)
    parts = check(request) if loaded is None else loaded[1]
    folder = RunFolder(out or RunFolder.fresh())
    folder.claim()
    try:
        request = folder.settle(request)
        with display.busy(f"loading {request.model}"):
            pipe = load_pipe(request, parts) if loaded is None else loaded[0]
        request = timed(request, pipe)
        result, winners, seconds = _search(folder, request, pipe, parts, display, halt)
        scheduler = type(pipe.scheduler).__name__
        plain = _plain(result, request, pipe, parts)
        record = outputs.write(
            folder, request, result, winners, parts.sampler, parts.budget, scheduler, seconds, plain
        )
    except BaseException as error:
        kept = folder.abandon()
        if kept and isinstance(error, UsageError | KeyboardInterrupt):
            display.say(f"what was done is kept: genscale resume {folder.path}")
        raise
    return {"folder": str(folder.path), **record}


def timed(request: Request, pipe: Any) -> Request:
    """With the frame rate of the pipeline's videos, where neither the user nor the request says one and it does."""
    own = inspect.signature(type(pipe).__call__).parameters.get("frame_rate")
    told = request.fps or request.pipeline_args.get("frame_rate") or request.pipeline_args.get("fps")
    if told or own is None or not isinstance(own.default, int | float):
        return request
    return replace(request, fps=float(own.default))


def planned(scaled: Any, pipe: Any, request: Request, parts: Parts) -> Any:
    """The plan; what the pipeline itself says against its arguments becomes a refusal."""
    try:
        return scaled.plan(**arguments(pipe, request, parts.pictures))  # uses up its own generator
    except (ValueError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{type(pipe).__name__} refuses its arguments: {error}") from error


def _search(
    folder: RunFolder,
    request: Request,
    pipe: Any,
    parts: Parts,
    display: Display,
    halt: Callable[[], bool] | None,
) -> tuple[Any, Any, float]:
    """What was found, the images that the scaled pipeline returned (None of videos), and how long it took."""
    from genscale.pipelines.loading import makes_videos

    preview = Preview(folder)

    def on_event(event: Event) -> None:
        display(event)
        preview(event)

    scaled = scaled_pipe(pipe, request, parts, out=folder.path, on_event=on_event, halt=halt)
    with display.busy("preparing the search"):
        found = planned(scaled, pipe, request, parts)
    folder.begin(request)
    nfe = None if found.nfe is None else found.nfe * found.prompts
    display.start(nfe, found.prompts, found.candidates, found.budget.seconds, found.nfe_per_candidate)
    try:
        started, call = time.perf_counter(), arguments(pipe, request, parts.pictures)
        if makes_videos(pipe):
            return scaled.search(**call), None, time.perf_counter() - started
        output = scaled(**call)
        made = output.frames if hasattr(output, "frames") else output.images
        return output.search, made, time.perf_counter() - started
    finally:
        display.stop()
        preview.close()


def _plain(result: Any, request: Request, pipe: Any, parts: Parts) -> Any:
    """The pipeline alone, to be shown beside the best, where a search did not finish the pipeline's own candidate.

    Particles and pruning give it up on the way. It costs one candidate more, which is booked apart.
    """
    if result.stopped is not None or all(result.base(i) is not None for i in range(len(result.prompts))):
        return None
    alone = replace(
        parts, sampler=registry.make("sampler", "best_of_n", {"candidates": 1}), budget=None, stop=None
    )
    try:
        return scaled_pipe(pipe, request, alone).search(**arguments(pipe, request, parts.pictures))
    except KeyboardInterrupt:  # the search is finished: whoever interrupts now wants to have it
        return None


def pipe_alone(request: Request) -> tuple[Any, Parts]:
    """The pipeline of a completed request, and parts that neither search nor judge: to draw or decode with it."""
    parts = Parts(None, [], [], [], None, None, pictures(request))
    return load_pipe(request, parts), parts


def load_pipe(request: Request, parts: Parts) -> Any:
    import diffusers
    import transformers

    from genscale.pipelines.loading import load_pipeline, makes_videos

    for library in (diffusers, transformers):  # bars of loading weights go, those of downloads stay
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    pipe = load_pipeline(
        request.model,
        dtype=request.dtype,
        device=request.device,
        offload=request.offload,
        attention=request.attention,
        compile=request.compile,
        lora=request.lora,
        variant=request.variant,
        revision=request.revision,
        trust_remote_code=request.trust_remote_code,
        device_map=request.device_map,
        vae_tiling=request.vae_tiling,
        vae_slicing=request.vae_slicing,
        images=[name for name in parts.pictures if name != "control_image"],
    )
    if request.clips and not makes_videos(pipe):
        raise UsageError(
            f"model '{request.model}' is a {type(pipe).__name__}, which makes images: use `genscale generate`, or "
            "name a text-to-video model."
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def scaled_pipe(
    pipe: Any,
    request: Request,
    parts: Parts,
    out: Path | None = None,
    on_event: Callable[[Any], None] | None = None,
    halt: Callable[[], bool] | None = None,
) -> Any:
    from genscale.pipelines import scale
    from genscale.pipelines.loading import makes_videos
    from genscale.pipelines.mixture_sources import named_models

    if makes_videos(pipe):
        parts = parts.lifted(request.per_frame)

    place = {"dtype": request.dtype, "device": request.device, "offload": request.offload}
    hub = {"variant": request.variant, "revision": None, "trust_remote_code": request.trust_remote_code}
    return scale.scale(
        pipe,
        sampler=parts.sampler,
        verifier=parts.verifiers,
        select=parts.select or None,
        held_out=parts.held_out or None,
        ensemble=request.ensemble,
        budget=parts.budget,
        stop=parts.stop,
        batch_size=request.batch_size,
        decode_batch=request.decode_batch,
        out=out,
        keep=max(request.images, outputs.RUNNERS),
        mix=request.mix or None,
        guide=request.guide,
        models=named_models(request.mix, **place, **hub),
        on_event=on_event,
        halt=halt,
    )
