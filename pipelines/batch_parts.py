"""Parts of a batch that are evaluated one after the other, at the same step of one pipeline call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.numerics.transfers import take_rows


class OneAtATime(Exception):
    """A callback edits latents between the parts of a batch: batches must have one latent, and so one part."""


@dataclass(frozen=True)
class Part:
    """Latents of a batch that go through the denoiser together.

    rows: their places in the batch. wanted: how many of them, from the first on, are asked for; the others only fill
    the call. order: their places in the call, where these are other ones.
    """

    rows: tuple[int, ...]
    wanted: int
    order: tuple[int, ...] | None = None

    def to_call(self, x: Tensor) -> Tensor:
        """The latents of this part, in the order of the call; x: those of the batch [n, *latent]."""
        if self.rows == tuple(range(x.shape[0])) and self.order is None:
            return x
        return take_rows(x, self.in_call)

    @property
    def in_call(self) -> tuple[int, ...]:
        """Places in the batch of the latents in the call, in its order."""
        return self.rows if self.order is None else tuple(self.rows[i] for i in self.order)

    @property
    def places(self) -> list[int]:
        """Rows of the call that were asked for, in the order of `rows`."""
        return (
            list(range(self.wanted))
            if self.order is None
            else [self.order.index(i) for i in range(self.wanted)]
        )

    def from_call(self, x: Tensor) -> Tensor:
        """What was asked for, in the order of `rows`; x: a result with one row for each latent in the call."""
        if self.order is None:
            return x[: self.wanted] if self.wanted < len(self.rows) else x
        return take_rows(x, self.places)

    def evaluations(self, made: int) -> int:
        """NFE of what was asked for, where the whole call made `made`."""
        return made * self.wanted // len(self.rows)


def whole_or_split(prompts: tuple[int, ...], ambiguous: bool) -> list[Part]:
    """The batch in one part, or its last latent apart."""
    n = len(prompts)
    rows = tuple(range(n))
    return [Part(rows[:-1], n - 1), Part(rows[-1:], 1)] if ambiguous else [Part(rows, n)]


def grouped(
    groups: list[list[int]], prompts: tuple[int, ...], parts: Callable[[tuple[int, ...]], list[Part]]
) -> list[Part]:
    """The parts of a batch whose groups of latents cannot be evaluated together.

    groups: places in the batch. parts: of the prompts of one group.
    """
    return [
        Part(tuple(group[i] for i in part.rows), part.wanted, part.order)
        for group in groups
        for part in parts(tuple(prompts[i] for i in group))
    ]


def own_rows(prompts: tuple[int, ...], rows: int) -> list[Part]:
    """Parts that have exactly the call's own rows: one latent for each of its `rows` prompts, in order.

    Where a part has no latent of a prompt, another latent of the batch fills its row, and its result is not used.
    """
    waiting = [[i for i, p in enumerate(prompts) if p == prompt] for prompt in range(rows)]
    parts = []
    while any(waiting):
        taken = {prompt: left.pop(0) for prompt, left in enumerate(waiting) if left}
        wanted = sorted(taken.values())
        filler = [wanted[0]] * (rows - len(wanted))
        places = (*wanted, *filler)
        spare = iter(range(len(wanted), rows))
        order = tuple(wanted.index(taken[p]) if p in taken else next(spare) for p in range(rows))
        parts.append(Part(places, len(wanted), None if order == tuple(range(rows)) else order))
    return parts


def batch_order(parts: list[Part]) -> list[int]:
    """For each latent of the batch, its place among what was asked for in the parts, one after the other."""
    places = [row for part in parts for row in part.rows[: part.wanted]]
    return [places.index(i) for i in range(len(places))]


def in_batch_order(parts: list[Part], results: list[Tensor]) -> Tensor:
    """Results of the parts [wanted, ...] as those of the batch."""
    joined = results[0] if len(results) == 1 else torch.cat(results)
    return joined if _in_order(parts) else take_rows(joined, batch_order(parts))


def _in_order(parts: list[Part]) -> bool:
    """Whether one part is the batch as it is."""
    return len(parts) == 1 and parts[0].rows[: parts[0].wanted] == tuple(range(parts[0].wanted))
