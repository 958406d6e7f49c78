"""The arguments of a pipeline call, and the same call with other rows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genscale.errors import UsageError, did_you_mean
from genscale.pipelines.call_limits import check_call

COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
PER_PROMPT = ("prompt", "negative_prompt", "class_labels")  # also prompt_2, prompt_3, ...
CALLBACKS = ("callback_on_step_end", "callback", "callback_steps")


class Arguments:
    """The arguments of one call of a pipeline, bound to the names of its `__call__`.

    given: arguments by name, with num_images_per_prompt (or its like) replaced by 1. results: that number. names: of
    all arguments that the pipeline takes.
    """

    def __init__(self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.names = tuple(inspect.signature(type(pipe).__call__).parameters)[1:]
        if len(args) > len(self.names):
            raise UsageError(
                f"{type(pipe).__name__} takes {len(self.names)} arguments, {len(args)} were given."
            )
        given = dict(zip(self.names, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise UsageError(f"'{name}' is given twice, by position and by name.")
            if name not in self.names and name not in CALLBACKS:
                meant = did_you_mean(name, set(self.names) - {"kwargs"})
                if "kwargs" not in self.names or meant:
                    raise UsageError(f"{type(pipe).__name__} takes no argument '{name}'{meant}.")
            given[name] = value
        check_call(given)
        self.results = 1
        for name in COUNTS:
            if name in self.names:
                self.results = int(given.get(name) or 1)
                given[name] = 1
        # Copies of lists, since some pipelines write into the ones they are given.
        self.given: dict[str, Any] = {k: list(v) if type(v) is list else v for k, v in given.items()}
        self.generator = given.get("generator")
        self.generator_is_new = is_new(self.generator)

    def texts(self, rows: int) -> list[str]:
        """One prompt text for each of the rows that the call makes; empty where only embeddings are given."""
        prompt = self.given.get("prompt")
        texts = [prompt] if isinstance(prompt, str) else list(prompt or [""])
        if len(texts) not in (1, rows):
            raise UsageError(f"{len(texts)} prompts made {rows} rows of latents: they cannot be matched.")
        return texts * rows if len(texts) == 1 else texts

    def quiet(self, **changes: Any) -> dict[str, Any]:
        """The arguments for a call that the user does not see: without callbacks and generator, and with `changes`."""
        dropped = (*CALLBACKS, "generator")
        kept = {k: v for k, v in self.given.items() if k not in dropped}
        return kept | {k: v for k, v in changes.items() if k in self.names}

    def extended(self, rows: int, more: Sequence[tuple[int, str]]) -> dict[str, Any]:
        """The call with further rows: each of `more` repeats a row (0 to rows - 1) with another prompt text."""
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
            elif isinstance(value, list) and len(value) == rows and rows > 1:
                made[name] = [value[i] for i in order]
            elif isinstance(value, Tensor | np.ndarray) and value.ndim > 1 and value.shape[0] == rows:
                made[name] = value[order]
        return made

    def composed(self, given: Mapping[str, Any], rows: int, composition: tuple[int, ...]) -> dict[str, Any]:
        """The call that makes one row for each entry of `composition` (prompt indices 0 to rows - 1)."""
        made = dict(given)
        count = next((name for name in COUNTS if name in self.names), None)
        if rows == 1 and count is not None:
            return made | {count: len(composition)}
        for name, value in made.items():
            if rows == 1 and isinstance(value, str | list) and name.rstrip("_234") in PER_PROMPT:
                made[name] = (list(value) if isinstance(value, list) else [value]) * len(composition)
            elif isinstance(value, list) and len(value) == rows and rows > 1:
                made[name] = [value[i] for i in composition]
            elif isinstance(value, Tensor | np.ndarray) and value.ndim > 1 and value.shape[0] == rows:
                made[name] = value[list(composition)]
        return made


def root_seeds(generator: Any, latents: Tensor) -> list[int]:
    """The seed that each row's keys derive from: its generator's; without a generator, a hash of the latents.

    Without a generator the pipeline draws from torch's global one. Hashing what it drew makes the run reproducible
    under torch.manual_seed and draws nothing more from that generator.
    """
    rows = latents.shape[0]
    if isinstance(generator, list | tuple):
        seeds = [int(g.initial_seed()) for g in generator]
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
