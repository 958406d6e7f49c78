"""Decodes clean latents with the pipeline's own code after its loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genscale.key import Key
from genscale.pipelines.encoder_cache import Memo
from genscale.pipelines.intercepted_call import LoopDriver, Templates
from genscale.pipelines.probe import Probe


class Decode(LoopDriver):
    """Lets the pipeline's own tail turn clean latents [n, *latent] into media.

    tail: key of random draws after the loop (some video decoders add noise); None: the pipeline's own draws.
    composition: prompt index of every row, if the call is made with one row a latent.
    """

    def __init__(
        self,
        memo: Memo,
        templates: Templates,
        probe: Probe,
        latents: Tensor,
        tail: Key | None,
        composition: tuple[int, ...] | None,
    ) -> None:
        super().__init__(memo, templates)
        self.probe, self.latents, self.tail = probe, latents, tail
        self.readings = probe.readings
        self.replay = probe.replay_for(composition)

    def source(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    def tail_source(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return None if self.tail is None else self.tail.fold(j).normal(shape)

    @property
    def graph(self) -> bool:
        return self.latents.requires_grad

    def first_index(self) -> int:
        """The last step, where a loop that edits latents leaves clean ones as they are."""
        return len(self.probe.evaluations) - 1

    def after_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        with torch.set_grad_enabled(self.graph):
            return self.probe.layout.laid_out(formatted(self.latents, self.probe.latents)), None


def formatted(x: Tensor, own: Tensor | None) -> Tensor:
    """In the dtype and the memory format of the pipeline's own latents.

    A search keeps stochastic states in float32; on the memory format the last bits of a convolution depend.
    """
    if x.requires_grad:  # not the leaf itself: a pipeline may write into what it is given
        x = x.clone()
    if own is not None:
        x = x.to(own.dtype)
    if own is not None and own.ndim == 4 and x.ndim == 4 and not own.is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    return x
