"""Weights of a verifier: finds their file and reads it safely; failures are one sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.pipelines.placement import device_of
from genscale.plugins.limits import COUNT


def check_settings(dtype: str | None, batch_size: int) -> None:
    """UsageError for a dtype that torch does not have and a batch size below 1."""
    if batch_size < 1:
        raise UsageError(f"batch_size {batch_size} embeds nothing: give at least 1.")
    if batch_size > COUNT.most:
        raise UsageError(
            f"batch_size {batch_size} is more than any machine holds: give {COUNT.most:,} at most."
        )
    if not isinstance(getattr(torch, dtype or "float32", None), torch.dtype):
        raise UsageError(f"dtype '{dtype}' is unknown: give float32, bfloat16 or float16.")


def runs_on(device: str | None, pixels: torch.device) -> torch.device:
    """Where a verifier's model runs: its own device, else the pixels'; with its index ("cuda" is "cuda:0").

    UsageError: there is no such device.
    """
    return torch.empty(0, device=device_of(device) if device else pixels).device


def check_pairs(pixels: Tensor, prompts: Sequence[str]) -> None:
    """ValueError unless there is a prompt for each image."""
    if len(pixels) != len(prompts):
        raise ValueError(f"{len(pixels)} images and {len(prompts)} prompts: give one for each.")


def is_path(checkpoint: str) -> bool:
    """Whether it can only be a path on this machine, and no Hugging Face id."""
    return Path(checkpoint).is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1


def weights_file(verifier: str, checkpoint: str, files: Sequence[str], source: str) -> Path:
    """The file of weights of `checkpoint`: a file, a folder that has one of `files`, or a Hugging Face id.

    A cached file is used before the network. source: the Hugging Face id to name in an error.
    """
    path, advice = Path(checkpoint).expanduser(), f"download {files[0]} of {source} and give it as checkpoint"
    if path.is_file():
        return path
    if path.is_dir():
        for file in files:
            if (path / file).is_file():
                return path / file
        raise UsageError(f"folder '{checkpoint}' has no {' or '.join(files)} for {verifier}: {advice}.")
    if is_path(checkpoint) or path.suffix:
        raise UsageError(f"there is no file '{checkpoint}' for {verifier}: {advice}.")
    return _from_hub(verifier, checkpoint, files[0], advice)


def _from_hub(verifier: str, repository: str, file: str, advice: str) -> Path:
    from huggingface_hub import hf_hub_download

    reason = ""
    for local in (True, False):
        try:
            return Path(hf_hub_download(repository, file, local_files_only=local))
        except Exception as error:
            reason = type(error).__name__
    raise UsageError(f"the weights of {verifier} cannot be fetched ({reason} at {repository}): {advice}.")


def whole(cls: Any, where: str, name: str, kind: str, advice: str, **options: Any) -> Any:
    """A model of transformers, whose loader fills in what a checkpoint lacks with random weights.

    cls: has `from_pretrained`, which gets `where` and the options. name: of the checkpoint, in an error. kind: what it
    should be, such as CLIP. UsageError: some of its weights are missing.
    """
    module, report = cls.from_pretrained(where, output_loading_info=True, **options)
    if missing := [*report["missing_keys"], *report["mismatched_keys"]]:
        raise UsageError(
            f"'{name}' is not a whole {kind}: {len(missing)} of its weights are missing: {advice}."
        )
    return module


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU. From a pickle only tensors are read, no code is run."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    return dict(torch.load(path, map_location="cpu", weights_only=True))


@contextmanager
def refusing(what: str, advice: str) -> Iterator[None]:
    """Turns any exception of a loader into one sentence, and hides what it logs."""
    root, null = logging.getLogger(), logging.NullHandler()

    def silent(record: logging.LogRecord) -> bool:
        return False

    root.addFilter(silent)  # only for messages to the root logger, which open_clip uses
    root.addHandler(null)  # otherwise the first message installs a permanent handler
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {shorten(str(error) or 'no reason given', 200)}".rstrip(". ")
        raise UsageError(f"{what} cannot be loaded ({reason}): {advice}.") from None
    finally:
        root.removeFilter(silent)
        root.removeHandler(null)
