"""Finds out what a pipeline's loop does, in one call that does not evaluate the denoiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from genscale.pipelines.argument_values import copied
from genscale.pipelines.call_signature import COUNTS
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.intercepted_call import LeaveLoop, LoopDriver, intercept
from genscale.pipelines.known_loop import FirstStep, KnownLoop
from genscale.pipelines.latent_layout import Layout
from genscale.pipelines.loop_noise import Draw, Place, generators_of, made_up
from genscale.pipelines.noise_interception import Draws, NormalDraw, Replay
from genscale.pipelines.row_gather import rows_of, sample_of
from genscale.pipelines.scheduler_proxy import plain_scheduler
from genscale.pipelines.scheduler_walk import SchedulerWalk
from genscale.pipelines.step_numbering import calling_modules
from genscale.pipelines.watched_models import PlaceholderOutputs, is_denoiser


class Probe(LoopDriver):
    """Walks through the loop once with placeholder outputs and records what a search must know.

    Arguments. given: those of the pipeline call. replay: results of the draws before the loop; None draws them.
    whole: False ends at the first step, when the initial latents are known. known: what a probe of such a call found
    before; where the first step is the same this one ends there, too.

    Afterwards. latents: the pipeline's initial latents [rows, *latent]. layout: how `step` sees them. draws: what was
    drawn before the loop. evaluations: rows through the denoiser at each step. own_scheduler: the pipeline's scheduler
    with its timesteps set. walk: its steps, with what the pipeline alone would draw in them. lists: whether a model is
    given any, which may have one entry a row. edits_latents: whether the loop changes latents between `step` and the
    next `step` (inpainting restores what is not painted). loop_draws: shapes of the normal draws inside the loop, by
    their place. first: what was seen at the first step. callback_edits: whether the user's callback changes what later
    steps see; learned while serving.
    """

    def __init__(
        self,
        encoder_cache: EncoderCache,
        placeholders: PlaceholderOutputs,
        given: dict[str, Any],
        replay: Draws | None = None,
        whole: bool = True,
        known: KnownLoop | None = None,
    ) -> None:
        super().__init__(encoder_cache, placeholders)
        self.given, self.replay, self.whole, self.known = given, replay, whole, known
        self.layout = Layout()
        self.draws: list[Tensor] = []
        self.latents: Tensor | None = None
        self.evaluations: list[int] = []
        self.own_scheduler: Any = None
        self.walk: SchedulerWalk | None = None
        self.edits_latents = self.callback_edits = False
        self.lists = False
        self.loop_draws: dict[Place, tuple[int, ...]] = {}
        self._rows = 0
        self.first: FirstStep | None = None
        self.draw_in_loop = self._record_draw
        self._returned: Tensor | None = None  # what the last `step` returned
        # The loop is in a module that was not known, so it counts iterations: it cannot go back to step 0.
        self.unnumbered = False
        self._again = False  # step 0 is entered once more, as a search does for its next candidates

    def iterate(self, timesteps: Tensor) -> Iterator[Tensor]:
        known = self.encoder_cache.loop_modules
        new = [m for m in calling_modules(1, intercept) if not any(m is k for k in known)]
        known += new
        self.unnumbered |= bool(new)
        yield from super().iterate(timesteps)

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
        self.lists = self.lists or _has_lists([*args, *kwargs.values()])
        if is_denoiser(name):
            self._rows += rows_of(sample_of(args, kwargs))
        return output

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        assert self.timesteps is not None
        if self._again:
            self._compare(call["sample"])
            raise LeaveLoop
        if self.latents is None:
            one_each = all(int(self.given.get(name) or 1) == 1 for name in COUNTS)
            self.layout = Layout.of(call["sample"], self._initial_noise(), self.given.get("prompt"), one_each)
            self.latents = self.layout.to_rows(call["sample"].detach().clone())
            self.own_scheduler = plain_scheduler(self.scheduler)
            if self.whole and self._is_known(call):
                raise LeaveLoop
            self.walk = SchedulerWalk(self.own_scheduler, self.start) if self.whole else None
        else:
            self._compare(call["sample"])
        self.evaluations.append(self._rows)
        self._rows = 0
        if self.walk is not None:
            self.walk.step(call)
        if not self.whole:
            raise LeaveLoop
        self._again = self.index + 1 == len(self.timesteps)
        if self._again and self.unnumbered:
            raise LeaveLoop
        # Others at every step, else a loop that keeps a part of the last latents would seem to change nothing.
        self._returned = self.latents if self._returned is None else -self._returned
        return self.layout.from_rows(self._returned), 0 if self._again else self.index + 1

    def _is_known(self, call: dict[str, Any]) -> bool:
        """See whether the first step is that of the known loop; then what was found of it is taken over."""
        assert self.timesteps is not None
        assert self.latents is not None
        kind = self.latents.shape, self.latents.dtype, self.latents.device
        rest = {k: copied(v) for k, v in call.items() if k not in ("model_output", "sample", "generator")}
        self.first = FirstStep(
            kind,
            self.layout,
            self.own_scheduler,
            self.timesteps,
            self.start,
            self.reads_expected,
            self._rows,
            rest,
        )
        known = self.known
        if known is None or not known.first.equals(self.first) or (self.lists and not known.lists):
            return False
        self.evaluations, self.walk, self.lists = list(known.evaluations), known.walk, known.lists
        return True

    def found(self) -> KnownLoop | None:
        """What another probe of such a call need not find again; None where it must."""
        draws = self.walk is None or any(self.walk.draws) or self.loop_draws
        if self.first is None or draws or self.edits_latents or not self.placeholders.guess:
            return None
        assert self.walk is not None
        modules = tuple(self.encoder_cache.loop_modules)
        return KnownLoop(self.first, tuple(self.evaluations), self.walk, self.lists, modules)

    def _compare(self, sample: Tensor) -> None:
        """See whether the loop changed the latents that the last `step` returned."""
        assert self._returned is not None
        rows, returned = self.layout.to_rows(sample), self._returned
        # NaN, as in latents that the user gives, is no edit.
        self.edits_latents |= not _same(rows, returned)

    def _record_draw(self, draw: Draw, place: Place) -> Tensor | None:
        users = generators_of(self.given.get("generator"))
        if draw.generator is not None and all(draw.generator is not g for g in users):
            return None  # a generator of the pipeline's own, which draws the same in every call
        self.loop_draws[place] = draw.shape
        return made_up(draw, place)

    def step_draws(self) -> list[list[NormalDraw]]:
        """The calls for noise in each step of the pipeline alone. UsageError: a search cannot step its scheduler."""
        assert self.walk is not None
        self.walk.finish(self.layout.copies)
        return self.walk.draws

    def scheduler_state(self, step: int) -> Mapping[str, Any]:
        if self.walk is None or self.latents is None:
            return {}
        return self.state_at(0) if self._again else self.walk.state(self.latents.device)

    def state_at(self, step: int) -> Mapping[str, Any]:
        """What a later call of the pipeline shows of its scheduler before a step whose latents do not matter."""
        assert self.walk is not None
        assert self.latents is not None
        return self.walk.state_at(step, self.latents.device)

    def _initial_noise(self) -> list[Tensor]:
        given = self.given.get("latents")
        return [given, *self.draws] if isinstance(given, Tensor) else self.draws


def _has_lists(values: list[Any]) -> bool:
    return any(isinstance(v, list) or (isinstance(v, dict) and _has_lists([*v.values()])) for v in values)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether all values are equal; NaN equals NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
