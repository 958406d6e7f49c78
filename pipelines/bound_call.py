"""The arguments of a pipeline call, and the same call with other rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genscale.errors import UsageError, did_you_mean
from genscale.pipelines.call_limits import check_call
from genscale.pipelines.call_signature import COUNTS, signature_of
from genscale.pipelines.image_inputs import first_of_prompts, inputs_of_images
from genscale.pipelines.modular_inputs import blocks_of, output_of, prompt_of_state
from genscale.pipelines.prompt_texts import TEXTS, checked_texts, row_texts
from genscale.storage.identity import identity

PER_PROMPT = ("prompt", "negative_prompt", "class_labels")  # also prompt_2, prompt_3, ...
CALLBACKS = ("callback_on_step_end", "callback", "callback_steps")


class Arguments:
    """The arguments of one call of a pipeline, bound to the names of its `__call__`.

    generator_identity: tells the state of the generator before the call.
    given: arguments by name, with num_images_per_prompt (or its like) replaced by 1. results: that number. names: of
    all arguments that the pipeline takes. prompt_texts: what the call has as `texts=`, which the pipeline does not get.
    generator: as the user gave it. of_images: generators and latents with one entry for each image, of which `given`
    has the first of each prompt.
    """

    def __init__(self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken = signature_of(pipe)
        self.names = taken.names
        if len(args) > len(taken.positions):
            raise UsageError(
                f"{type(pipe).__name__} takes {len(taken.positions)} arguments by position, {len(args)} were given."
            )
        given = dict(zip(taken.positions, args, strict=False))
        texts = None if TEXTS in self.names else kwargs.pop(TEXTS, None)
        for name, value in kwargs.items():
            if name in given:
                raise UsageError(f"'{name}' is given twice, by position and by name.")
            if name not in self.names and (name not in CALLBACKS or blocks_of(pipe) is not None):
                meant = did_you_mean(name, set(self.names))
                if not taken.others or (meant and not taken.passed_on):
                    raise UsageError(f"{type(pipe).__name__} takes no argument '{name}'{meant}.")
            given[name] = value
        # output: what a modular pipeline is to return; of other pipelines it may be an argument like any other.
        self.output = output_of(pipe, given)
        self.prompt_texts = checked_texts(prompt_of_state(given) if texts is None else texts, given)
        check_call(given)
        self.results = 1
        for name in COUNTS:
            if name in self.names or name in given:
                self.results = int(given.get(name) or 1)
                given[name] = 1
        self.generator = given.get("generator")
        first = (
            self.generator[0]
            if isinstance(self.generator, list | tuple) and self.generator
            else self.generator
        )
        self._first = (first.device, first.get_state()) if isinstance(first, torch.Generator) else None
        self.of_images = inputs_of_images(given, self.results)
        given |= first_of_prompts(self.of_images, self.results)
        # Copies of lists, since some pipelines write into the ones they are given.
        self.given: dict[str, Any] = {k: list(v) if type(v) is list else v for k, v in given.items()}
        self.generator_is_new = is_new(self.generator)
        self.generator_identity = identity(self.generator)  # before the call draws from it

    def all_images(self) -> dict[str, Any]:
        """The call of all images of each prompt, as the user gave it but without callbacks."""
        kept = {k: v for k, v in self.given.items() if k not in CALLBACKS}
        count = next(name for name in COUNTS if name in kept)
        return kept | {count: self.results, "generator": self.generator} | self.of_images

    def texts(self, rows: int) -> list[str]:
        """One prompt text for each of the rows that the call makes; empty where none is given."""
        return row_texts(self.prompt_texts, self.given, rows)

    def stand_in(self) -> torch.Generator | None:
        """In place of the user's generators, which a search must not draw from: a copy of the first at the call.

        None where the user gave none. Some pipelines fail without any.
        """
        if self._first is None:
            return None
        device, state = self._first
        made = torch.Generator(device)
        made.set_state(state)
        return made

    def quiet(self, **changes: Any) -> dict[str, Any]:
        """The arguments for a call that the user does not see: without callbacks, with `changes` and a generator that
        stands in for the user's."""
        dropped = (*CALLBACKS, "generator")
        kept = {k: v for k, v in self.given.items() if k not in dropped}
        if self._first is not None:
            kept["generator"] = self.stand_in()
        return kept | {k: v for k, v in changes.items() if k in self.names}

    def extended(
        self, rows: int, more: Sequence[tuple[int, str]], per_row: Collection[str]
    ) -> dict[str, Any]:
        """The call with further rows: each of `more` repeats a row (0 to rows - 1) with another prompt text.

        per_row: names of the arguments with one entry for each row.
        """
        if not more:
            return dict(self.given)
        if self.given.get("prompt") is None:
            raise UsageError(
                "other prompts can only be mixed into a call that gives its own as text (prompt=...)."
            )
        order = [*range(rows), *(row for row, _ in more)]
        made = dict(self.given)
        for name, value in made.items():
            plain = name.rstrip("_234")
            if plain in PER_PROMPT and isinstance(value, str | list):
                each = [value] * rows if isinstance(value, str) else value
                each = each * rows if len(each) == 1 else each
                made[name] = [each[i] for i in order]
                if plain == "prompt":
                    made[name][rows:] = [text for _, text in more]
            else:
                made[name] = _rows_of(name, value, rows, order, per_row)
        return made

    def composed(
        self, given: Mapping[str, Any], rows: int, composition: tuple[int, ...], per_row: Collection[str]
    ) -> dict[str, Any]:
        """The call that makes one row for each entry of `composition` (prompt indices 0 to rows - 1).

        per_row: names of the arguments with one entry for each row.
        """
        made = dict(given)
        count = next((name for name in COUNTS if name in self.names), None)
        if rows == 1 and count is not None:
            return made | {count: len(composition)}
        for name, value in made.items():
            if rows == 1 and isinstance(value, str | list) and name.rstrip("_234") in PER_PROMPT:
                made[name] = (list(value) if isinstance(value, list) else [value]) * len(composition)
            else:
                made[name] = _rows_of(name, value, rows, composition, per_row)
        return made


ENTRIES = "[]"
"""After an argument's name: not the list has one entry for each row, but its entries have."""


def entries(value: Any) -> int | None:
    """How many rows a list, a tensor or an array may have; None for what has none."""
    if isinstance(value, list | tuple):
        return len(value)
    return int(value.shape[0]) if isinstance(value, Tensor | np.ndarray) and value.ndim > 1 else None


def _rows_of(name: str, value: Any, rows: int, order: Sequence[int], per_row: Collection[str]) -> Any:
    """An argument for the rows in this order: picked from one with `rows` rows, or as it is."""
    if value is None or isinstance(value, torch.Generator):
        return value
    if name in per_row or (rows == 1 and not isinstance(value, list | tuple) and entries(value) == 1):
        return [value[i] for i in order] if isinstance(value, list | tuple) else value[list(order)]
    if name + ENTRIES in per_row:
        return [_rows_of(name, v, rows, order, {name}) if entries(v) == rows else v for v in value]
    return value


def root_seeds(generator: Any, latents: Tensor) -> list[int]:
    """The seed that each row's keys derive from: its generator's; without a generator, a hash of the latents.

    Without a generator the pipeline draws from torch's global one. Hashing what it drew makes the run reproducible
    under torch.manual_seed and draws nothing more from that generator.
    """
    rows = latents.shape[0]
    if isinstance(generator, list | tuple):
        seeds = [int(g.initial_seed()) for g in generator]
        seeds = seeds[:: len(seeds) // rows] if len(seeds) % rows == 0 else seeds  # the first of each prompt
        return seeds if len(seeds) == rows else [seeds[0]] * rows
    if isinstance(generator, torch.Generator):
        return [int(generator.initial_seed())] * rows
    import zlib

    content = latents.detach().float().cpu().contiguous().numpy().tobytes()
    return [zlib.crc32(content)] * rows


def is_new(generator: Any) -> bool:
    """Whether the seed alone determines what it draws: one torch.Generator on the CPU that has drawn nothing yet."""
    if isinstance(generator, list | tuple) and len(generator) == 1:
        generator = generator[0]
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        return False
    fresh = torch.Generator("cpu").manual_seed(generator.initial_seed())
    return torch.equal(fresh.get_state(), generator.get_state())
