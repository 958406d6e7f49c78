"""Answers of the engine to a sampler's queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.numerics.transfers import take_rows


@dataclass(frozen=True)
class Prediction:
    """Clean estimate and noise estimate of the model at one noise level, float32: x = alpha x0 + sigma eps.

    rate: of a mix, d log w / d log(alpha / sigma), see genscale.diffusion.mixtures; else None.
    """

    x0: Tensor  # [n, *latent]
    eps: Tensor  # [n, *latent]
    rate: Tensor | None = None  # [n] float64

    def __len__(self) -> int:
        return self.x0.shape[0]

    def __getitem__(self, rows: slice | Sequence[int]) -> Prediction:
        rows = rows if isinstance(rows, slice) else list(rows)
        rate = None if self.rate is None else take_rows(self.rate, rows)
        return Prediction(take_rows(self.x0, rows), take_rows(self.eps, rows), rate)

    @staticmethod
    def cat(parts: Sequence[Prediction]) -> Prediction:
        if len(parts) == 1:
            return parts[0]
        rates = [p.rate for p in parts if p.rate is not None]
        return Prediction(
            torch.cat([p.x0 for p in parts]),
            torch.cat([p.eps for p in parts]),
            torch.cat(rates) if len(rates) == len(parts) else None,
        )


@dataclass(frozen=True)
class Scores:
    """Raw scores of every search verifier, and how they are combined to one number.

    raw: float64 [n, verifiers], higher is better. combine: [n, verifiers] -> [n]. A rank ensemble depends on the pool
    that is compared, so to compare across rounds join the raw scores first: `Scores.cat([old, new]).total`.
    failed: bool [n], candidates that the engine dropped because their latents, pixels or scores are not finite; None:
    no candidate. Their raw scores are NaN and their total is -inf. They cannot win, and no candidate may be made from
    them.
    """

    raw: Tensor
    combine: Callable[[Tensor], Tensor]
    failed: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Combined scores [n], float64, for comparison within this pool; -inf for failed candidates."""
        if self.failed is None:
            return self.combine(self.raw)
        total = torch.full((len(self),), -math.inf, dtype=torch.float64)
        rows = self.alive
        total[rows] = self.combine(self.raw[rows])
        return total

    @property
    def alive(self) -> list[int]:
        """The rows that did not fail, ascending."""
        failed = [False] * len(self) if self.failed is None else self.failed.tolist()
        return [i for i, lost in enumerate(failed) if not lost]

    def __len__(self) -> int:
        return self.raw.shape[0]

    def __getitem__(self, rows: slice | Sequence[int]) -> Scores:
        return Scores(self.raw[rows], self.combine, None if self.failed is None else self.failed[rows])

    @staticmethod
    def cat(parts: Sequence[Scores]) -> Scores:
        return Scores(torch.cat([p.raw for p in parts]), parts[0].combine, _failed(parts))

    def best(self) -> int:
        """The row with the highest total; of equals the first. Where all have failed it is row 0."""
        return int(torch.argmax(self.total))

    def ranking(self) -> list[int]:
        """Rows from best to worst, without failed ones; equal ones in their order."""
        order: list[int] = torch.sort(self.total, descending=True, stable=True).indices.tolist()
        alive = set(self.alive)
        return [row for row in order if row in alive]


@dataclass(frozen=True)
class Graded:
    """Scores of clean estimates and their gradients, float32, detached.

    gradient: [n, *latent], d total / d x of the combined score; with `pull`, its vector-Jacobian product instead.
    x0: [n, *latent], the clean estimates that were scored. prediction: of the first model call, for `process.move`.
    scores: None if `pull` was given. noises: [transitions, n, *latent], the gradient at the noises, if they were given.
    each, each_noises: [verifiers, n, *latent] and [verifiers, transitions, n, *latent], the gradients of every
    verifier's raw score, without weights, if asked for. failed: bool [n], rows whose scores or gradients are not
    finite; None: no row. Their gradients are set to 0, and their candidates are dropped.
    """

    gradient: Tensor
    x0: Tensor
    prediction: Prediction
    scores: Scores | None = None
    noises: Tensor | None = None
    each: Tensor | None = None
    each_noises: Tensor | None = None
    failed: Tensor | None = None

    def __len__(self) -> int:
        return self.gradient.shape[0]

    def __getitem__(self, rows: slice) -> Graded:
        def second(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[:, rows]

        return Graded(
            self.gradient[rows],
            self.x0[rows],
            self.prediction[rows],
            None if self.scores is None else self.scores[rows],
            second(self.noises),
            second(self.each),
            None if self.each_noises is None else self.each_noises[:, :, rows],
            None if self.failed is None else self.failed[rows],
        )

    @staticmethod
    def cat(parts: Sequence[Graded]) -> Graded:
        def joined(name: str, dim: int) -> Tensor | None:
            tensors = [getattr(p, name) for p in parts]
            return None if tensors[0] is None else torch.cat(tensors, dim)

        scores = [p.scores for p in parts if p.scores is not None]
        return Graded(
            torch.cat([p.gradient for p in parts]),
            torch.cat([p.x0 for p in parts]),
            Prediction.cat([p.prediction for p in parts]),
            Scores.cat(scores) if scores else None,
            joined("noises", 1),
            joined("each", 1),
            joined("each_noises", 2),
            _failed(parts),
        )


def _failed(parts: Sequence[Scores] | Sequence[Graded]) -> Tensor | None:
    """Which rows of answers that are joined have failed; None if there is none."""
    if all(p.failed is None for p in parts):
        return None
    return torch.cat([torch.zeros(len(p), dtype=torch.bool) if p.failed is None else p.failed for p in parts])
