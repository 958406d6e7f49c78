"""What a call of a modular pipeline returns, and what its scaled call does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genscale.pipelines.modular_inputs import blocks_of
from genscale.pipelines.scheduler_proxy import plain_scheduler
from genscale.pipelines.timesteps import Timesteps

MEDIA = ("images", "videos", "image", "video", "frames")
"""Usual names of the output that holds pixels."""


class StateOutput(dict[str, Any]):
    """The values of a PipelineState, the pixels first, as other pipelines have them first in their output class.

    groups: inputs that belong together, as the state has them.
    """

    groups: Mapping[str, list[str]] = {}

    @classmethod
    def of(cls, pipe: Any, state: Any) -> StateOutput:
        values = {name: _plain(value) for name, value in state.values.items()}
        name = media_name(blocks_of(pipe), values)
        made = cls(({} if name is None else {name: values[name]}) | values)
        made.groups = state.kwargs_mapping
        return made

    @classmethod
    def joined(cls, outputs: list[StateOutput]) -> StateOutput:
        """The outputs of several calls as one: what has one entry for each image or video is put together."""
        counts = [len(next(iter(output.values()))) for output in outputs]
        made = cls({name: _joined([output.get(name) for output in outputs], counts) for name in outputs[0]})
        made.groups = outputs[0].groups
        return made

    def returned(self, output: Any) -> Any:
        """As the pipeline returns it for this `output=`: the whole state, one value, or a dictionary."""
        from diffusers.modular_pipelines import PipelineState

        if output is None:
            return PipelineState(dict(self), {kind: list(names) for kind, names in self.groups.items()})
        if isinstance(output, str):
            return self.get(output)
        return {name: self.get(name) for name in output}


def media_name(blocks: Any, values: Mapping[str, Any] | None = None) -> str | None:
    """The name of the output with images or videos, or else latents; None without. values: of the state, if known."""
    last = list(blocks.sub_blocks.values())[-1:] or [blocks]
    made = [out.name for out in blocks.intermediate_outputs]
    usual = [name for name in MEDIA if name in made]
    of_last = [out.name for out in last[0].intermediate_outputs if out.name not in ("latents", *usual)]
    found = [n for n in (*usual, *of_last, "latents") if values is None or values.get(n) is not None]
    return found[0] if found else None


def _plain(value: Any) -> Any:
    """A value without what an intercepted call puts in its place: timesteps, the scheduler."""
    if isinstance(value, Timesteps):
        return value.as_subclass(Tensor)
    return plain_scheduler(value) if "_driver" in getattr(value, "__dict__", ()) else value


def _joined(values: list[Any], counts: list[int]) -> Any:
    """One value for all calls; counts: how many images or videos each made."""
    if all(isinstance(v, Tensor) and v.ndim > 1 and len(v) == n for v, n in zip(values, counts, strict=True)):
        return torch.cat(values)
    if all(
        isinstance(v, np.ndarray) and v.ndim > 1 and len(v) == n for v, n in zip(values, counts, strict=True)
    ):
        return np.concatenate(values)
    if all(type(v) is list and len(v) == n for v, n in zip(values, counts, strict=True)):
        return [item for value in values for item in value]
    return values[0]


class FoundList(list[Any]):
    """A list with the search that found it. search: a SearchResult."""

    search: Any = None


class FoundDict(dict[str, Any]):
    """A dictionary with the search that found it. search: a SearchResult."""

    search: Any = None


class FoundArray(np.ndarray):
    """An array with the search that found it. search: a SearchResult; None for what is computed from the array."""

    search: Any = None


def with_search(value: Any, result: Any) -> Any:
    """What a scaled modular pipeline returns: the pipeline's own value, with the search as `.search`.

    Lists, dictionaries and arrays come as a subclass that has room for it. A value without room (a number, None) comes
    as it is.
    """
    if type(value) is list:
        value = FoundList(value)
    elif type(value) is dict:
        value = FoundDict(value)
    elif type(value) is np.ndarray:
        value = value.view(FoundArray)
    with suppress(AttributeError, TypeError):
        object.__setattr__(value, "search", result)
    return value
