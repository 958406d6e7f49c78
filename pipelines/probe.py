"""Finds out what a pipeline's loop does, in one call that does not evaluate the denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.intercepted_call import LeaveLoop, LoopDriver
from genscale.pipelines.latent_layout import Layout
from genscale.pipelines.noise_interception import NormalDraw, Replay
from genscale.pipelines.row_gather import rows_of, sample_of
from genscale.pipelines.scheduler_proxy import plain_scheduler
from genscale.pipelines.scheduler_walk import SchedulerWalk
from genscale.pipelines.watched_models import PlaceholderOutputs, is_denoiser


class Probe(LoopDriver):
    """Walks through the loop once with placeholder outputs and records what a search must know.

    Arguments. given: those of the pipeline call. replay: results of the draws before the loop; None draws them.
    whole: False ends at the first step, when the initial latents are known.

    Afterwards. latents: the pipeline's initial latents [rows, *latent]. layout: how `step` sees them. draws: what was
    drawn before the loop. evaluations: rows through the denoiser at each step. own_scheduler: the pipeline's scheduler
    with its timesteps set. walk: its steps, with what the pipeline alone would draw in them. edits_latents: whether the
    loop changes latents after `step` (inpainting restores what is not painted). callback_edits: whether the user's
    callback changes what later steps see; learned while serving.
    """

    def __init__(
        self,
        encoder_cache: EncoderCache,
        placeholders: PlaceholderOutputs,
        given: dict[str, Any],
        replay: Replay | None = None,
        whole: bool = True,
    ) -> None:
        super().__init__(encoder_cache, placeholders)
        self.given, self.replay, self.whole = given, replay, whole
        self.layout = Layout()
        self.draws: list[Tensor] = []
        self.latents: Tensor | None = None
        self.evaluations: list[int] = []
        self.own_scheduler: Any = None
        self.walk: SchedulerWalk | None = None
        self.edits_latents = self.callback_edits = False
        self._rows = 0

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return None if self.replay is None else self.replay(j, shape)

    def on_draw(self, noise: Tensor) -> None:
        self.draws.append(noise)

    def replay_for(self, composition: tuple[int, ...] | None) -> Replay:
        """These draws again, for a call with the same rows or with one row for each entry of `composition`."""
        assert self.latents is not None
        return Replay(self.draws, self.latents.shape[0], composition)

    def call_model(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().call_model(name, module, forward, args, kwargs)
        if is_denoiser(name):
            self._rows += rows_of(sample_of(args, kwargs))
        return output

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        assert self.timesteps is not None
        if self.latents is None:
            self.layout = Layout.of(call["sample"], self._initial_noise(), self.given.get("prompt"))
            self.latents = self.layout.to_rows(call["sample"].detach().clone())
            self.own_scheduler = plain_scheduler(self.scheduler)
            self.walk = SchedulerWalk(self.own_scheduler, self.start) if self.whole else None
        elif not torch.equal(self.layout.to_rows(call["sample"]), self.latents):
            self.edits_latents = True
        self.evaluations.append(self._rows)
        self._rows = 0
        if self.walk is not None:
            self.walk.step(call)
        if not self.whole or self.index + 1 == len(self.timesteps):
            raise LeaveLoop
        return self.layout.from_rows(self.latents), self.index + 1

    def step_draws(self) -> list[list[NormalDraw]]:
        """The calls for noise in each step of the pipeline alone. UsageError: a search cannot step its scheduler."""
        assert self.walk is not None
        self.walk.finish(self.layout.copies)
        return self.walk.draws

    def scheduler_state(self, step: int) -> Mapping[str, Any]:
        return {} if self.walk is None or self.latents is None else self.walk.state(self.latents.device)

    def state_at(self, step: int) -> Mapping[str, Any]:
        """What a later call of the pipeline shows of its scheduler before a step whose latents do not matter."""
        assert self.walk is not None
        assert self.latents is not None
        return self.walk.state_at(step, self.latents.device)

    def _initial_noise(self) -> list[Tensor]:
        given = self.given.get("latents")
        return [given, *self.draws] if isinstance(given, Tensor) else self.draws
