"""From the settings of a tree of chunks to what makes its chunks: a pipeline, or a function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genscale.chunks.callable_chunks import CallableChunks
from genscale.chunks.chunk_source import ChunkSource
from genscale.chunks.pipeline_chunks import PipelineChunks, last_frame, output_form
from genscale.chunks.tree_settings import TreeSettings
from genscale.errors import UsageError
from genscale.pipelines.call_signature import COUNTS, call_signature
from genscale.pipelines.scale import Scaled, scale
from genscale.plugins.limits import shown

# Every chunk would get the same of these, or they are the tree's own to give.
_NOT_FOR_CHUNKS = {
    "latents": "every chunk would begin with the same noise: give a generator",
    "prompt": "it is the first argument",
    "prompt_embeds": "verifiers and chunks need the text: give the prompt",
    "return_dict": "the output is always an object: leave it away",
    "texts": "verifiers get the prompts: leave it away",
}


def source_of(made: TreeSettings, prompts: Sequence[str], call: dict[str, Any]) -> ChunkSource:
    """What makes the chunks of one call. UsageError: the settings or the call cannot be used."""
    pipe = _plain(made.pipe)
    if _is_pipeline(pipe):
        return _of_pipeline(made, pipe, prompts, call)
    if not callable(pipe) or isinstance(pipe, type):
        raise UsageError(
            f"{shown(pipe)} makes no chunks: give a diffusers pipeline, or a function "
            "extend(prompt, frames, generator)."
        )
    return _of_callable(made, prompts, call)


def _plain(pipe: Any) -> Any:
    return pipe.settings.pipe if isinstance(pipe, Scaled) else pipe


def _is_pipeline(pipe: Any) -> bool:
    return hasattr(pipe, "components") and not isinstance(pipe, type)


def _of_pipeline(made: TreeSettings, pipe: Any, prompts: Sequence[str], call: dict[str, Any]) -> ChunkSource:
    first = pipe if made.first is None else _plain(made.first)
    if not _is_pipeline(first):
        raise UsageError(f"first={shown(first)} must be a diffusers pipeline, or None.")
    if made.nfe != 1:
        raise UsageError("nfe= is for functions: the evaluations of a pipeline are counted.")
    if made.continuation is None and made.shape.chunks > 1:
        names = call_signature(type(pipe))
        if "image" not in names.names and not names.others:
            raise UsageError(
                f"{type(pipe).__name__} takes no image= to continue from: give continuation=, a function from the "
                "frames so far to the arguments of the next call, or an image-to-video pipeline."
            )
    _check_call(call, made.overlap)
    scaled = [_scaled(made, pipe if d else first, b) for d, b in enumerate(made.shape.branches)]
    kept = {k: v for k, v in call.items() if k != "output_type"}
    return PipelineChunks(
        scaled, made.shape, made.stages, made.held_out, prompts, kept, made.continuation or last_frame,
        1 if made.overlap is None else made.overlap, output_form(first, call.get("output_type")),
        None if made.out is None else Path(made.out),
    )  # fmt: skip


def _scaled(made: TreeSettings, pipe: Any, branches: int) -> Scaled:
    """The search of a depth; its verifiers, keys and limits are set for each state."""
    options = dict(made.options)
    if made.sampler == "best_of_n":
        options.setdefault("candidates", branches)
    scaled = scale(
        pipe, made.sampler, batch_size=made.batch_size, decode_batch=made.decode_batch, out=made.out,
        on_event=made.on_event, **options,
    )  # fmt: skip
    assert isinstance(scaled, Scaled)
    return scaled


def _check_call(call: dict[str, Any], overlap: int | None) -> None:
    for name, why in _NOT_FOR_CHUNKS.items():
        if call.get(name) is not None:
            raise UsageError(f"{name}= cannot be given to a video of chunks, since {why}.")
    for name in COUNTS:
        if call.get(name) not in (None, 1):
            raise UsageError(f"{name}= is the last number of survivors: give survivors={call[name]}.")
    if isinstance(call.get("generator"), list | tuple):
        raise UsageError("a list of generators was given for one video: give one generator.")
    frames, overlap = call.get("num_frames"), 1 if overlap is None else overlap
    if isinstance(frames, int) and frames <= overlap:
        raise UsageError(
            f"chunks of {frames} frames, of which overlap={overlap} repeat those before them, add nothing: ask for "
            "more."
        )


def _of_callable(made: TreeSettings, prompts: Sequence[str], call: dict[str, Any]) -> ChunkSource:
    for name in ("first", "continuation", "out"):
        if getattr(made, name) is not None:
            raise UsageError(f"{name}= is for pipelines: a function is called for every chunk alike.")
    if made.sampler != "best_of_n" or made.options:
        asked = made.sampler if made.sampler != "best_of_n" else next(iter(made.options))
        raise UsageError(f"{shown(asked)} is for the searches of a pipeline: a function has only branches.")
    generator = call.pop("generator", None)
    if call:
        raise UsageError(
            f"{next(iter(call))}= is for pipelines: a function gets prompt, frames and generator alone."
        )
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
    if not isinstance(generator, torch.Generator):
        raise UsageError(f"generator={shown(generator)} must be one torch.Generator.")
    return CallableChunks(
        made.pipe, made.shape, made.stages, made.held_out, prompts,
        0 if made.overlap is None else made.overlap, made.nfe, generator,
    )  # fmt: skip
