"""Finds out which lists and tensors have one entry for each row of a pipeline call, and which are for all rows.

A list may be as long as there are prompts by chance: one image for each of two ControlNets, two custom timesteps, the
scales of two adapters. Neither names nor lengths tell, but the pipeline does: it is called again with one row more and
must hand its models, for each row, what it handed them before. Both calls end at the first step and use placeholder
outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from genscale.errors import UsageError
from genscale.pipelines.bound_call import ENTRIES, Arguments, entries
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.failures import MISMATCH, fails_again
from genscale.pipelines.intercepted_call import intercept
from genscale.pipelines.noise_interception import Replay
from genscale.pipelines.probe import Probe
from genscale.pipelines.row_gather import NeedsRowPerLatent
from genscale.pipelines.watched_models import PlaceholderOutputs

TOLERANCE = 0.03  # relative to the largest value: encoders round differently for another number of rows
MOST_TRIES = 64
_PLAIN = (str, int, float, bool, type(None))


class UnclearRows(UsageError):
    """Which arguments have one entry for each row is not known, so the pipeline cannot be called for other rows."""


@dataclass
class RowLists:
    """What has one entry for each row.

    arguments: names of the pipeline call's arguments, followed by "[]" where not a list has one entry a row, but its
    entries have; None where no reading fits. models: (component, argument) -> whether a list that the
    component is given there has one entry a row.
    """

    arguments: frozenset[str] | None = frozenset()
    models: dict[tuple[str, str], bool] = field(default_factory=dict)

    def per_row(self, model: str, name: str) -> bool:
        """NeedsRowPerLatent: it is not known."""
        if self.arguments is None:
            raise NeedsRowPerLatent
        return self.models.get((model, name), True)


class FirstCalls(Probe):
    """A probe that ends at the first step and keeps what the models were given there."""

    def __init__(
        self,
        encoder_cache: EncoderCache,
        placeholders: PlaceholderOutputs,
        given: dict[str, Any],
        replay: Replay | None,
    ) -> None:
        super().__init__(encoder_cache, placeholders, given, replay, whole=False)
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call_model(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        given = {str(i): value for i, value in enumerate(args)} | kwargs
        self.calls.append((name, given))
        return super().call_model(name, module, forward, args, kwargs)


def find_row_lists(pipe: Any, arguments: Arguments, probe: Probe) -> RowLists:
    """What has one entry for each row in this call."""
    assert probe.latents is not None
    rows = probe.latents.shape[0]
    sure, readings = _readings(arguments.given, rows)
    if not readings and not probe.lists:
        return RowLists(frozenset(sure))
    more = (0, *range(rows))
    own = _first_calls(pipe, arguments.quiet(), probe, None)
    trials = sorted(product(*readings), key=lambda names: len(names) - names.count(""))
    for names in trials[:MOST_TRIES]:
        found = RowLists(frozenset([*sure, *names]) - {""})
        given = arguments.composed(arguments.quiet(), rows, more, found.arguments or ())
        call = partial(_first_calls, pipe, given, probe, more)
        try:
            other = call()
        except MISMATCH as error:
            if not fails_again(error, call):
                raise
            continue  # the pipeline refuses this reading, or fails with it
        if _distance(own, other, Rows(rows, more, found)) <= TOLERANCE:
            return found
    # Without doubtful arguments it is another number of rows that cannot be compared: lengths decide.
    return RowLists(None if readings else frozenset(sure))


def _readings(given: Mapping[str, Any], rows: int) -> tuple[list[str], list[list[str]]]:
    """Arguments with one entry for each row beyond doubt; and what each other one with entries may be read as.

    "" is for all rows, as it is given.
    """
    sure, doubtful = [], []
    for name, value in given.items():
        long, inner = entries(value) == rows, isinstance(value, list | tuple)
        inner = inner and any(entries(v) == rows for v in value)
        if rows > 1 and long and ("prompt" in name or name in ("latents", "class_labels", "generator")):
            sure.append(name)
        elif rows > 1 and (long or inner):
            doubtful.append(["", *([name] if long else []), *([name + ENTRIES] if inner else [])])
    return sure, doubtful


def _first_calls(
    pipe: Any, given: dict[str, Any], probe: Probe, composition: tuple[int, ...] | None
) -> FirstCalls:
    made = FirstCalls(probe.encoder_cache, probe.placeholders, given, probe.replay_for(composition))
    made.reads_expected = probe.reads_expected
    intercept(pipe, given, made)
    return made


class Rows:
    """Compares what models are given in a call of `rows` rows with a call of the rows `composition`."""

    def __init__(self, rows: int, composition: tuple[int, ...], found: RowLists) -> None:
        self.rows, self.composition, self.found = rows, composition, found

    def grew(self, old: int, new: int) -> bool:
        """Whether a size is in proportion to the number of rows."""
        return old != new and new * self.rows == old * len(self.composition)

    def indices(self, size: int) -> Iterator[list[int]]:
        """Source of each entry, for entries in the order [block, row] and in the order [row, inner]."""
        blocks = size // self.rows
        yield [block * self.rows + row for block in range(blocks) for row in self.composition]
        yield [row * blocks + inner for row in self.composition for inner in range(blocks)]

    def values(self, old: Any, new: Any, model: str, name: str) -> float:
        """The largest relative difference; infinite where the structures do not fit."""
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            return self._tensors(old, new)
        if isinstance(old, dict) and isinstance(new, dict):
            if old.keys() != new.keys():
                return float("inf")
            return max((self.values(old[k], new[k], model, str(k)) for k in old), default=0.0)
        if isinstance(old, list | tuple) and isinstance(new, list | tuple):
            return self._lists(old, new, model, name)
        if isinstance(old, _PLAIN) or isinstance(new, _PLAIN):
            return 0.0 if old == new else float("inf")
        return 0.0

    def _lists(self, old: Any, new: Any, model: str, name: str) -> float:
        def compare(index: list[int]) -> float:
            pairs = zip(index, new, strict=True)
            return max((self.values(old[i], b, model, name + "[]") for i, b in pairs), default=0.0)

        if self.grew(len(old), len(new)):
            self.found.models[model, name] = True
            return min(compare(index) for index in self.indices(len(old)))
        if len(old) != len(new):
            return float("inf")
        self.found.models[model, name] = False
        return compare(list(range(len(old))))

    def _tensors(self, old: Tensor, new: Tensor) -> float:
        if old.ndim != new.ndim:
            return float("inf")
        other = [d for d, (a, b) in enumerate(zip(old.shape, new.shape, strict=True)) if a != b]
        if not other:
            return _difference(old, new)
        if len(other) > 1 or not self.grew(old.shape[other[0]], new.shape[other[0]]):
            return float("inf")
        found = self.indices(old.shape[other[0]])
        return min(
            _difference(old.index_select(other[0], torch.tensor(i, device=old.device)), new) for i in found
        )


def _difference(old: Tensor, new: Tensor) -> float:
    old, new = old.detach().float(), new.detach().float()
    if not old.numel():
        return 0.0
    return float((old - new).abs().max() / old.abs().max().clamp(min=1e-12))


def _distance(own: FirstCalls, other: FirstCalls, rows: Rows) -> float:
    """How much the two calls differ, beyond their rows."""
    if [name for name, _ in own.calls] != [name for name, _ in other.calls]:
        return float("inf")
    assert own.timesteps is not None
    assert other.timesteps is not None
    if not torch.equal(own.timesteps, other.timesteps):
        return float("inf")
    pairs = zip(own.calls, other.calls, strict=True)
    return max((rows.values(a, b, name, "") for (name, a), (_, b) in pairs), default=0.0)
