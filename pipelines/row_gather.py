"""Gathers conditioning, so that a call with one row a prompt evaluates any number of latents of any prompts.

A pipeline is called with R rows, one for each prompt. To evaluate n latents, every conditioning tensor that reaches
the denoiser with a first dimension of k R (k = 2 with classifier-free guidance) is gathered to k n rows, by the prompt
of each latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from genscale.numerics.transfers import take_rows

_SAMPLE = ("hidden_states", "sample", "x", "latents", "model_input")
_POSITIONS = ("img_ids", "txt_ids", "rotary")  # tables of positions, the same for every row


class NeedsRowPerLatent(Exception):
    """This call cannot evaluate the batch: the pipeline must be called with one row for each latent instead."""


def sample_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The latents among the arguments of a denoiser: the first argument, or one with a usual name."""
    if args and isinstance(args[0], Tensor | list):
        return args[0]
    for name in _SAMPLE:
        if isinstance(kwargs.get(name), Tensor | list):
            return kwargs[name]
    return next((v for v in kwargs.values() if isinstance(v, Tensor)), None)


def is_position(name: str) -> bool:
    """Whether an argument of this name is a table of positions, which has no rows."""
    return any(word in name for word in _POSITIONS)


def rows_of(sample: Any) -> int:
    return len(sample) if isinstance(sample, list) else int(sample.shape[0])


class GatherCache:
    """Reuses what was gathered at an earlier step: pipelines pass the same conditioning at every step."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, str], tuple[Tensor, Tensor, tuple[Any, ...]]] = {}

    def __call__(self, gather: Gather, module: str, name: str, value: Any) -> Any:
        """`gather(value, name)`, or its earlier result if nothing that it depends on has changed."""
        if type(value) is dict:  # SDXL's added conditions: a new dictionary of the same tensors at every step
            return {k: self._inner(gather, module, name, k, v) for k, v in value.items()}
        return self._gathered(gather, module, name, name, value)

    def _inner(self, gather: Gather, module: str, name: str, key: Any, value: Any) -> Any:
        return self._gathered(gather, module, f"{name}[{key!r}]", str(key), value)

    def _gathered(self, gather: Gather, module: str, slot: str, name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.is_inference():  # inference tensors have no version counter
            return gather(value, name)
        old, made, state = self._slots.get((module, slot), (None, None, ()))
        if old is value and made is not None and state == (gather.state, value._version, made._version):
            return made
        made = gather(value, name)
        if made is value or made.is_inference() or made.requires_grad:  # a graph must not outlive its batch
            self._slots.pop((module, slot), None)
        else:
            self._slots[module, slot] = (value, made, (gather.state, value._version, made._version))
        return made


class Gather:
    """Gathers conditioning made for `rows` rows to the latents of a batch.

    prompts: prompt index of each latent. sample: the latents as the model gets them: their number of rows gives k, the
    guidance copies in this call; their other sizes matter, since some pipelines fold one of them (frames)
    into the conditioning's first dimension. per_row: whether a list of the given name may have one entry a row.
    NeedsRowPerLatent where the rows of a tensor are ambiguous.
    """

    def __init__(
        self,
        rows: int,
        prompts: tuple[int, ...],
        sample: Any,
        per_row: Callable[[str], bool] = lambda name: True,
    ) -> None:
        self.rows, self.n, self.sample, self.per_row = rows, len(prompts), sample, per_row
        if rows_of(sample) % self.n:
            raise NeedsRowPerLatent
        self.blocks = rows_of(sample) // self.n
        self.sizes = () if isinstance(sample, list) else tuple(sample.shape[1:])
        self.prompts = prompts
        self.state = (rows, prompts, self.blocks, self.sizes)  # all that its results depend on

    def __call__(self, value: Any, name: str = "") -> Any:
        if value is self.sample or is_position(name):
            return value
        if isinstance(value, Tensor):
            return self._tensor(value, name)
        if isinstance(value, dict):
            return {k: self(v, str(k)) for k, v in value.items()}
        if isinstance(value, list) and self._is_row_list(value, name):
            return [value[i] for i in self._index(self.blocks if len(value) != self.rows else 1, 1)]
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(self(v, name + "[]") for v in value)
        return value

    def _is_row_list(self, value: list[Any], name: str) -> bool:
        """A list with one entry a row (shapes, lengths, embeddings), not one of tensors that have rows themselves."""
        wanted = self.rows * self.blocks
        if len(value) not in (wanted, self.rows):
            return False
        sizes = [v.shape[0] if isinstance(v, Tensor) and v.ndim else -1 for v in value]
        if self.n * self.blocks in sizes:
            return False
        with_rows = sizes[0] in (wanted, self.rows) and len(set(sizes)) == 1
        return self.per_row(name) and (isinstance(self.sample, list) or not with_rows)

    def _tensor(self, value: Tensor, name: str) -> Tensor:
        if value.ndim == 0:
            return value
        size, wanted = value.shape[0], self.rows * self.blocks
        if value.ndim >= 4 and value.shape[1] == wanted and value.shape[2:] != self.sizes[1:]:
            raise NeedsRowPerLatent  # rows may be in the second dimension (HiDream's stacked text layers)
        if size == self.n * self.blocks and not (name.startswith("encoder") and self._folds(value)):
            return value  # computed from the latents: already one row a latent
        if size == wanted:
            return take_rows(value, self._index(self.blocks, 1))
        if size == self.rows and self.rows > 1:
            return take_rows(value, self._index(1, 1))
        if self._folds(value):
            return take_rows(value, self._index(self.blocks, size // wanted))
        return value

    def _folds(self, value: Tensor) -> bool:
        """Whether rows and one of the latents' own dimensions (frames) share the first dimension."""
        inner, rest = divmod(value.shape[0], self.rows * self.blocks)
        return value.ndim >= 3 and rest == 0 and inner > 1 and inner in self.sizes

    def _index(self, blocks: int, inner: int) -> list[int]:
        """Source row of each gathered row; rows are ordered [block, row, inner]."""
        return [
            (block * self.rows + prompt) * inner + i
            for block in range(blocks)
            for prompt in self.prompts
            for i in range(inner)
        ]
