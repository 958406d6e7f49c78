"""Intercepts a pipeline's normal draws: records them, repeats them in a later call, or replaces them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from genscale.errors import NoLoop

_LIKE = (torch.randn_like,)
Draws = Callable[[int, tuple[int, ...]], Tensor | None]
"""The j-th draw, of a shape; None: a real draw."""


class Pausable(TorchFunctionMode):
    """A torch function mode that can be left for a while."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Without interception, unless another torch function mode was entered after this one."""
        if _get_current_function_mode() is not self:  # type: ignore[no-untyped-call]
            yield
            return
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            self.__enter__()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class NormalDraw:
    """What one call of `torch.randn` or `randn_like` was asked for.

    generator: None is torch's global one. stride: the memory layout of `randn_like`, which decides the order in which
    it draws; None for `randn`.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    generator: torch.Generator | None = None
    stride: tuple[int, ...] | None = None

    def __call__(self) -> Tensor:
        """The numbers that such a call draws now."""
        if self.stride is None:
            return torch.randn(self.shape, generator=self.generator, dtype=self.dtype, device=self.device)
        like = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return torch.randn_like(like)


class Intercept(Pausable):
    """While active, `torch.randn` and `randn_like` return `source(j, shape)`, j counting the draws.

    source returns a float tensor of that shape on any device, or None for a real draw. on_draw is called with each
    result, as a copy, since pipelines write conditions into what they drew. Uniform and integer draws are not
    intercepted: no latents or scheduler noise are made of them.
    """

    def __init__(
        self,
        source: Draws,
        on_draw: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.source, self.on_draw, self.count = source, on_draw, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.randn and func not in _LIKE:
            return func(*args, **kwargs)
        draw = _request(func, args, kwargs)
        given = self.answer(draw)
        self.count += 1
        result: Tensor = func(*args, **kwargs) if given is None else _copy(given, draw)
        if self.on_draw is not None:
            self.on_draw(result.detach().clone())
        return result

    def answer(self, draw: NormalDraw) -> Tensor | None:
        return self.source(self.count, draw.shape)


def _copy(given: Tensor, draw: NormalDraw) -> Tensor:
    """A result of its own; with a graph `given` itself is not the pipeline's to write into, either."""
    made = given.to(draw.device, draw.dtype)
    return made.clone() if made.data_ptr() == given.data_ptr() else made


def _request(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NormalDraw:
    if func is torch.randn:
        size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
        like = torch.empty(0, dtype=kwargs.get("dtype"), device=kwargs.get("device"))
        return NormalDraw(tuple(int(s) for s in size), like.dtype, like.device, kwargs.get("generator"))
    like = torch.empty_like(args[0], dtype=kwargs.get("dtype"), device=kwargs.get("device"))
    return NormalDraw(tuple(like.shape), like.dtype, like.device, kwargs.get("generator"), like.stride())


class Replay:
    """The draws of one pipeline call as the source of another that may have other rows.

    draws: what a call with `rows` rows drew, in order. composition: for each row of the new call the row of the old
    call that it repeats; None: the same rows. A pipeline may draw for all rows at once, row by row, or once for a
    condition that all rows share: the shape of each draw tells which.

    replaced: other noise for some draws (numbered after `joined`), with one row for each row of the new call.
    """

    def __init__(
        self,
        draws: list[Tensor],
        rows: int,
        composition: tuple[int, ...] | None = None,
        replaced: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.draws, self.rows = joined(draws, rows), rows
        self.composition = tuple(range(rows)) if composition is None else composition
        self.replaced = replaced or {}
        self._at, self._row = 0, 0

    def __call__(self, j: int, shape: tuple[int, ...]) -> Tensor:
        n = len(self.composition)
        fits = self._at < len(self.draws) and self.draws[self._at].shape[1:] == shape[1:]
        if self._row > 0 and (not fits or shape[0] != 1):  # the row-by-row draws were for fewer rows
            self._at, self._row = self._at + 1, 0
            fits = self._at < len(self.draws) and self.draws[self._at].shape[1:] == shape[1:]
        if fits:
            noise, rows, composition = self.draws[self._at], self.rows, self.composition
            if self._at in self.replaced:
                noise, rows, composition = self.replaced[self._at], n, tuple(range(n))
            if shape[0] == noise.shape[0] and composition == tuple(range(rows)):
                self._at += 1
                return noise
            blocks, rest = divmod(noise.shape[0], rows)  # 2 where a condition is drawn for both branches
            if rest == 0 and shape[0] == blocks * n > 1:
                self._at += 1
                starts = rows * torch.arange(blocks)[:, None]
                return noise[(starts + torch.tensor(composition)).flatten()]
            if shape[0] == n > 1:
                self._at += 1
                return noise[torch.tensor(composition) % noise.shape[0]]
            if shape[0] == 1:
                row = composition[self._row] % noise.shape[0]
                self._row += 1
                if self._row == n:
                    self._at, self._row = self._at + 1, 0
                return noise[row : row + 1]
        raise NoLoop(
            f"the pipeline draws other noise in every call (draw {j + 1} now has shape {list(shape)}): "
            "it cannot be searched."
        )


def joined(draws: list[Tensor], rows: int) -> list[Tensor]:
    """The draws, with those made row by row concatenated to one for all rows."""
    whole: list[Tensor] = []
    i = 0
    while i < len(draws):
        group = draws[i : i + rows]
        if rows > 1 and len(group) == rows and all(d.shape == (1, *draws[i].shape[1:]) for d in group):
            whole.append(torch.cat(group))
            i += rows
        else:
            whole.append(draws[i])
            i += 1
    return whole
