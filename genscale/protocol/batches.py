"""What an engine and a model exchange: batches, outputs, and decoded images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from genscale.media import Media
from genscale.protocol.particles import Memory


@dataclass(frozen=True)
class Batch:
    """One model call: rows of any prompts, all at one step, or each at a step of its own.

    steps: the step of each row, where they or the solvers' memories differ; `step` is then that of the first row. Such
    a batch has neither time, branch, model, graph nor memory.
    """

    x: Tensor  # [n, *latent]
    step: int
    prompts: tuple[int, ...]  # prompt index of each row
    time: float | None = None  # linear time of the noise level, where it is not that of the step
    branch: str | None = None  # "cond" or "uncond": one branch of classifier-free guidance alone
    model: str = ""  # which of the models that share the latent space; "" is the pipeline's own
    grad: bool = False  # keep the graph from x to the output
    checkpoint: bool = False  # keep only x, and recompute the call in the backward pass
    memory: Memory | None = None  # of the solver, for each row; None where a kernel made the last step
    caches: tuple[Any, ...] = ()  # of each row, what the model's caches hold (RowCache.before); (): nothing
    steps: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: slice) -> Batch:
        """Some of its rows that follow each other."""
        return replace(
            self,
            x=self.x[rows],
            prompts=self.prompts[rows],
            memory=None if self.memory is None else self.memory.take(rows),
            caches=self.caches[rows],
            steps=None if self.steps is None else self.steps[rows],
        )

    def split(self, size: int) -> list[Batch]:
        """Batches of at most `size` rows, in order."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self), size)]

    def to(self, device: torch.device) -> Batch:
        memory = None if self.memory is None else self.memory.to(device)
        return replace(self, x=self.x.to(device), memory=memory)


@dataclass(frozen=True)
class Output:
    """The guided output of the model, and the latents that it saw (a pipeline may have changed them)."""

    value: Tensor  # [n, ...]
    x: Tensor  # [n, *latent]
    evaluations: int  # NFE of the batch: rows through the denoiser
    rate: Tensor | None = None  # [n] float64, see Prediction
    faults: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """row: (where, what), as of a Failure, of rows that could not be evaluated; their candidates are dropped."""
    caches: tuple[
        Any, ...
    ] = ()  # of each row, what the model's caches hold now; (): this call leaves them alone
    skipped: float = 0.0  # of the evaluations, how much work caches spared

    @staticmethod
    def cat(parts: Sequence[Output]) -> Output:
        """The output of all rows of the parts of a batch, in order."""
        if len(parts) == 1:
            return parts[0]
        rates = [part.rate for part in parts if part.rate is not None]
        faults, at = dict[int, tuple[str, str]](), 0
        for part in parts:
            faults |= {at + row: fault for row, fault in part.faults.items()}
            at += part.value.shape[0]
        return Output(
            torch.cat([part.value for part in parts]),
            torch.cat([part.x for part in parts]),
            sum(part.evaluations for part in parts),
            torch.cat(rates) if rates else None,
            faults,
            tuple(state for part in parts for state in part.caches),
            sum(part.skipped for part in parts),
        )

    def to(self, device: torch.device) -> Output:
        rate = None if self.rate is None else self.rate.to(device)
        return replace(self, value=self.value.to(device), x=self.x.to(device), rate=rate)


Decode = Callable[[Tensor, tuple[int, ...]], Media]
"""(clean latents [n, *latent], prompt index of each row) -> images or videos."""
