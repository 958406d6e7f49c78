"""Loads a pipeline from a diffusers folder, a single file or Hugging Face. Failures are one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from genscale.errors import UsageError, did_you_mean, quoted
from genscale.pipelines.placement import first_line
from genscale.quiet_libraries import quietly

FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
MODULAR_INDEX = "modular_model_index.json"
_HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")


def load(model: str, dtype: Any, hub: dict[str, Any], known: Collection[str] = ()) -> Any:
    """The pipeline of a folder, a file or a Hugging Face id, on the CPU. known: names for "did you mean"."""
    path = Path(model).expanduser()
    if os.path.isdir(path):  # unlike Path.is_dir, False also where no folder can have this name
        if (path / "model_index.json").is_file():
            return _from_pretrained(str(path), dtype, hub)
        if (path / MODULAR_INDEX).is_file():
            return modular(str(path), dtype, hub)
        raise UsageError(
            f"folder '{model}' is not a diffusers pipeline: it has no model_index.json (or {MODULAR_INDEX})."
        )
    if os.path.isfile(path):
        return _single_file(path, dtype, hub)
    if path.suffix.lower() in FILES:
        raise UsageError(f"model file '{model}' does not exist.")
    looks_local = model.startswith((".", "/", "~"))
    if looks_local or not _HUB_ID.fullmatch(model):
        hint = did_you_mean(model, known)
        raise UsageError(
            f"model '{model}' is unknown{hint}: give one of {', '.join(known)}, a diffusers folder, "
            "a .safetensors or .ckpt file, or a Hugging Face id such as owner/name."
        )
    return _from_pretrained(model, dtype, hub)


def _from_pretrained(model: str, dtype: Any, hub: dict[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(model, **{_dtype_word(): dtype}, **hub)
    except Exception as error:
        if "model_index.json" in str(error) and not os.path.isdir(
            model
        ):  # perhaps a modular repository of the hub
            return modular(model, dtype, hub, error)
        raise _refusal(model, error) from error


def modular(model: str, dtype: Any, hub: dict[str, Any], instead: Exception | None = None) -> Any:
    """A modular pipeline with all components that its index names. instead: why the model is none of another kind."""
    from diffusers import ModularPipeline

    if "device_map" in hub:
        raise UsageError(f"model '{model}' is a modular pipeline, which takes no device_map: use a device.")
    source = {k: v for k, v in hub.items() if k != "variant"}
    try:
        pipe = ModularPipeline.from_pretrained(model, **source)
        parts = {k: v for k, v in hub.items() if k in ("variant", "token", "trust_remote_code")}
        with quietly("diffusers"):  # it logs a failed component with its traceback, and goes on without
            pipe.load_components(**{_dtype_word(): dtype}, **parts)
    except Exception as error:
        raise _refusal(model, instead or error) from error
    named = (name for name in pipe.null_component_names if _source_of(pipe, name))
    missing = next(named, None)
    if missing is not None:
        raise UsageError(
            f"model '{model}' cannot be loaded: its {missing} is not in {quoted(_source_of(pipe, missing))}, or "
            "cannot be read there."
        )
    return pipe


def _source_of(pipe: Any, component: str) -> str | None:
    """Where a modular pipeline loads a component from; None for one that it is not to load."""
    found: str | None = pipe.get_component_spec(component).pretrained_model_name_or_path
    return found


def _single_file(path: Path, dtype: Any, hub: dict[str, Any]) -> Any:
    """A file has weights only: diffusers infers the kind of pipeline and takes its settings from the hub's cache."""
    if path.suffix.lower() not in (".safetensors", ".ckpt"):
        raise UsageError(f"model file '{path}' must be a .safetensors or .ckpt file of a whole pipeline.")
    import diffusers
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    try:
        checkpoint = load_single_file_checkpoint(str(path))
    except Exception as error:
        raise UsageError(f"model file '{path}' cannot be read: {first_line(error)}") from error
    token = {"token": hub["token"]} if "token" in hub else {}
    if "device_map" in hub:
        raise UsageError(f"model file '{path}' takes no device_map: use a device, or a diffusers folder.")
    try:
        kind = fetch_diffusers_config(checkpoint)["pretrained_model_name_or_path"]
        del checkpoint
        name = diffusers.DiffusionPipeline.load_config(kind, **token)["_class_name"]
        return getattr(diffusers, name).from_single_file(
            str(path), config=kind, **{_dtype_word(): dtype}, **token
        )
    except Exception as error:
        raise _refusal(str(path), error) from error


def _dtype_word() -> str:
    """diffusers renamed `torch_dtype`; the version that did so has this function."""
    from diffusers import utils

    return "dtype" if hasattr(utils, "_resolve_dtype") else "torch_dtype"


def _refusal(model: str, error: Exception) -> UsageError:
    """The reason why a model cannot be loaded, in one sentence."""
    names, cause = set(), error
    while cause is not None and type(cause).__name__ not in names:
        names.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    if "GatedRepoError" in names:
        return UsageError(f"model '{model}' is gated: accept its licence on the hub and set HF_TOKEN.")
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        return UsageError(f"model '{model}' is not on the hub, or needs a token (HF_TOKEN).")
    offline = {
        "ConnectError",
        "ConnectionError",
        "ConnectTimeout",
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
    }
    offline |= {"ProxyError", "ReadTimeout", "MaxRetryError", "HfHubHTTPError"}
    if names & offline or "connect" in str(error).lower():
        return UsageError(f"model '{model}' is not on this machine, and the hub cannot be reached.")
    if "trust_remote_code" in str(error):
        return UsageError(
            f"model '{model}' contains Python code of its own: read it, then pass --trust-remote-code."
        )
    return UsageError(f"model '{model}' cannot be loaded: {first_line(error)}")
