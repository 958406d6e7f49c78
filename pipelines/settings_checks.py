"""Checks of what `genscale.scale` is given, before anything is loaded or spent."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from genscale.diffusion.mixtures import Mix
from genscale.engine.holding import DEVICE, HOST, PLACES
from genscale.errors import NoLoop, UsageError
from genscale.pipelines.batch_padding import WAYS
from genscale.pipelines.modular_inputs import blocks_of
from genscale.pipelines.pipeline_lock import REFUSE, WAIT
from genscale.plugins import limits
from genscale.plugins.limits import COUNT, shown
from genscale.protocol.interfaces import Sampler


def check_settings(
    *,
    batch_size: Any,
    keep: Any,
    decode_batch: Any,
    out: Any,
    on_event: Any,
    halt: Any,
    models: Any,
    mix: Any,
    pool: Any,
    busy: Any,
    pad_batches: Any,
    hold: Any,
    preview: Any,
) -> None:
    """UsageError for a setting of another type or out of range; they are explained at `genscale.scale`."""
    for name, value in (("batch_size", batch_size), ("keep", keep), ("decode_batch", decode_batch)):
        if value is None and name == "decode_batch":
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or not COUNT.admits(value):
            raise UsageError(f"{name}={shown(value)} must be a whole number, {COUNT}.")
    if busy not in (WAIT, REFUSE):
        raise UsageError(f"busy={busy!r} is unknown: give '{WAIT}' or '{REFUSE}'.")
    if pad_batches not in WAYS:
        raise UsageError(f"pad_batches={shown(pad_batches)} is unknown: give {', '.join(map(repr, WAYS))}.")
    if hold not in PLACES:
        raise UsageError(f"hold={shown(hold)} is unknown: give '{DEVICE}' or '{HOST}'.")
    if not isinstance(preview, bool) and not hasattr(preview, "decode"):
        raise UsageError(
            f"preview={shown(preview)} must be True, False, or a small autoencoder, such as an AutoencoderTiny."
        )
    if not isinstance(pool, bool):
        raise UsageError(f"pool={shown(pool)} must be True or False.")
    if out is not None:
        _check_folder(out)
    for name, function in (("on_event", on_event), ("halt", halt)):
        if function is not None and not callable(function):
            raise UsageError(f"{name}={shown(function)} must be a function, or None.")
    if mix is not None and not isinstance(mix, Mix):
        texts = [mix] if isinstance(mix, str) else mix
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"mix={shown(mix)} must be a Mix, or texts such as 'base:-0.6'.")
    if models is not None and not isinstance(models, Mapping):
        raise UsageError(f"models={shown(models)} must be a mapping from names to pipelines or modules.")


def check_sampler(sampler: Any) -> Sampler:
    """The sampler. UsageError: it is none, or one of its options has another type than its annotation says."""
    if isinstance(sampler, type) or not callable(getattr(sampler, "search", None)):
        raise UsageError(
            f"{shown(sampler)} is not a sampler: give a name or an object with a search(process, key) method."
        )
    limits.check_plugin(f"sampler {type(sampler).__name__}", sampler)
    return sampler  # type: ignore[no-any-return]


def _check_folder(out: Any) -> None:
    if not isinstance(out, str | Path) or not str(out):
        raise UsageError(f"out={shown(out)} must be the name of a folder.")
    try:
        file = Path(out).exists() and not Path(out).is_dir()
    except (OSError, ValueError):
        raise UsageError(f"out={shown(str(out))} cannot be the name of a folder: choose another.") from None
    if file or "\0" in str(out):
        raise UsageError(f"out={shown(str(out))} is not a folder: choose another name.")


def check_pipeline(pipe: Any) -> None:
    """UsageError for an object that has no scheduler, or is no pipeline with a loop of its own."""
    from diffusers import DiffusionPipeline

    name = type(pipe).__name__
    if isinstance(pipe, DiffusionPipeline) and not hasattr(pipe, "scheduler"):
        raise NoLoop(f"{name} has no scheduler, so there is no denoising loop to search.")
    if blocks_of(pipe) is not None and "scheduler" in getattr(pipe, "null_component_names", ()):
        raise UsageError(
            f"{name} has no scheduler yet: load its components (load_components) or give them (update_components)."
        )
    if getattr(pipe, "scheduler", None) is None:
        raise UsageError(
            f"{name} has no scheduler, so there is no denoising loop to search: use a diffusion or flow pipeline."
        )
    if not isinstance(pipe, DiffusionPipeline) and blocks_of(pipe) is None:
        raise NoLoop(
            f"{name} is not a DiffusionPipeline of diffusers, so genscale cannot use its denoising loop: give the "
            "pipeline itself, not an object around it."
        )
