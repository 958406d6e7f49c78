"""Finds out what a pipeline's loop does, in one call that evaluates as little as possible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genscale.pipelines.encoder_cache import Memo
from genscale.pipelines.intercepted_call import Done, LoopDriver, Templates, is_denoiser
from genscale.pipelines.latent_layout import Layout
from genscale.pipelines.noise_interception import Replay
from genscale.pipelines.row_gather import rows_of, sample_of
from genscale.pipelines.scheduler_proxy import own


class Probe(LoopDriver):
    """Walks the loop once with the denoiser skipped, to learn what a run needs to know.

    latents: the pipeline's own initial latents [R, *latent]. evaluations: rows through the denoiser at each step.
    edits: whether the loop changes the latents after `step` (inpainting
    puts back what is not painted). drifts: whether the user's callback changes what later steps see, learned while
    serving. draws: what was drawn before the loop. replay: what to draw instead. given: the call's arguments.
    whole: False ends at once, after the initial latents.
    """

    def __init__(
        self,
        memo: Memo,
        templates: Templates,
        given: dict[str, Any],
        replay: Replay | None = None,
        whole: bool = True,
    ) -> None:
        super().__init__(memo, templates)
        self.given, self.replay, self.whole = given, replay, whole
        self.layout = Layout()
        self.draws: list[Tensor] = []
        self.latents: Tensor | None = None
        self.evaluations: list[int] = []
        self.own_scheduler: Any = None
        self.edits = self.drifts = False
        self._rows = 0

    def source(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return None if self.replay is None else self.replay(j, shape)

    def seen(self, noise: Tensor) -> None:
        self.draws.append(noise)

    def replay_for(self, composition: tuple[int, ...] | None) -> Replay:
        """These draws again, for a call with the same rows or with one row for each of `composition`."""
        assert self.latents is not None
        return Replay(self.draws, self.latents.shape[0], composition)

    def evaluate(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().evaluate(name, module, forward, args, kwargs)
        if is_denoiser(name):
            self._rows += rows_of(sample_of(args, kwargs))
        return output

    def after_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        assert self.timesteps is not None
        if self.latents is None:
            self.layout = Layout.of(call["sample"], self._noise_drawn(), self.given.get("prompt"))
            self.latents = self.layout.rows_first(call["sample"].detach().clone())
            self.own_scheduler = own(self.scheduler)
        elif not torch.equal(self.layout.rows_first(call["sample"]), self.latents):
            self.edits = True
        self.evaluations.append(self._rows)
        self._rows = 0
        if not self.whole or self.index + 1 == len(self.timesteps):
            raise Done
        return self.layout.laid_out(self.latents), self.index + 1

    def _noise_drawn(self) -> list[Tensor]:
        given = self.given.get("latents")
        return [given, *self.draws] if isinstance(given, Tensor) else self.draws
