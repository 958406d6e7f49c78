"""Which kind of media a pipeline makes: what its code says before it is called, and its components.

Everything is read off names that all pipelines of diffusers share: the fields of the output class that a pipeline's
`__call__` constructs, and the sampling rates in the configurations of its components.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from genscale.errors import UsageError
from genscale.media_items import AUDIO, DEPTH, EMBEDDING, IMAGE, LATENT, MESH, NORMALS, TEXT, VIDEO

# Name of a field of an output class -> the kinds that it can hold.
_FIELDS: tuple[tuple[str, frozenset[str]], ...] = (
    (r"audios?|waveforms?|sounds?", frozenset({AUDIO})),
    (r"frames|videos?", frozenset({VIDEO})),
    (r"images?|rgb", frozenset({IMAGE, VIDEO})),
    (r"depths?", frozenset({DEPTH})),
    (r"normals?", frozenset({NORMALS})),
    (r"predictions?", frozenset({DEPTH, NORMALS, IMAGE})),
    (r"(\w+_)?(embeds?|embeddings?)", frozenset({EMBEDDING})),
    (r"texts?|captions?", frozenset({TEXT})),
    (r"mesh(es)?", frozenset({MESH})),
    (r"latents?", frozenset({LATENT})),
)

_RATES = ("output_sampling_rate", "sampling_rate", "sample_rate")
_MAKERS = ("vocoder", "vae", "autoencoder", "decoder")  # what makes waveforms, the last in the line first


def kinds_of_field(name: str) -> frozenset[str]:
    """The kinds that a field of an output class can hold; none where its name does not tell."""
    return next((kinds for pattern, kinds in _FIELDS if re.fullmatch(pattern, name)), frozenset())


def possible_kinds(pipe: Any) -> frozenset[str]:
    """The kinds of the main field of the output classes that a pipeline's call constructs; none where it does not say.

    The main field is the first whose name tells a kind; where it may be None, the next such field counts as well.
    """
    found: set[str] = set()
    for cls in _output_classes(type(pipe)):
        for field in dataclasses.fields(cls):
            kinds = kinds_of_field(field.name)
            found |= kinds
            if kinds and "None" not in str(field.type):
                break
    return frozenset(found)


def main_field(output: Any) -> tuple[str, Any]:
    """(name, value) of the field that holds what a pipeline made; the name is "" where fields have none.

    That is the first whose name tells a kind, else the first; fields that are None do not count.
    """
    values = getattr(output, "values", None)
    if isinstance(values, Mapping):  # the state of a modular pipeline
        output = values
    if not isinstance(output, Mapping):
        return "", output[0]
    filled = {name: value for name, value in output.items() if value is not None}
    name = next((name for name in filled if kinds_of_field(name)), None)
    name = next(iter(filled)) if name is None else name
    return name, filled[name]


def makes_audio(pipe: Any) -> bool:
    """Whether a pipeline's code says that it makes audio and nothing else."""
    return possible_kinds(pipe) == {AUDIO}


def _output_classes(cls: type[Any]) -> Iterator[type[Any]]:
    """The output classes of diffusers that the code of a class's `__call__` names."""
    from diffusers.utils import BaseOutput

    call = inspect.unwrap(cls.__call__)
    code, names = getattr(call, "__code__", None), getattr(call, "__globals__", {})
    for name in getattr(code, "co_names", ()):
        found = names.get(name)
        if isinstance(found, type) and issubclass(found, BaseOutput) and dataclasses.is_dataclass(found):
            yield found


# ---------------------------------------------------------------- sampling rates


def sampling_rate_of(pipe: Any) -> int | None:
    """Samples a second of the audio that a pipeline makes; None where nothing says.

    By the configuration of the model that makes the waveform, of the pipeline itself, of its other models, and last of
    its processors, which may work at another rate than the pipeline's.
    """
    parts: Mapping[str, Any] = getattr(pipe, "components", None) or {}
    makers = [parts[name] for word in _MAKERS for name in parts if word in name]
    models = [part for part in parts.values() if isinstance(part, nn.Module)]
    others = [part for part in parts.values() if not isinstance(part, nn.Module)]
    for part in (*makers, pipe, *models, *others):
        for holder in (getattr(part, "config", None), part):
            rate = next((r for name in _RATES if (r := _number(holder, name))), None)
            if rate is not None:
                return rate
    return None


def required_rate(pipe: Any) -> int:
    """The same. UsageError: nothing says."""
    found = sampling_rate_of(pipe)
    if found is None:
        raise UsageError(
            f"{type(pipe).__name__} makes audio, and none of its components says at which sampling rate: set "
            "pipe.sampling_rate to the samples a second."
        )
    return found


def _number(holder: Any, name: str) -> int | None:
    value: Any = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
    known = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return int(value) if known and value > 0 else None
