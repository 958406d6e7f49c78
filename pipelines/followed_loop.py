"""Loops that edit their latents or draw noise: what each candidate must bring into a call of the pipeline.

Such a loop is followed as the pipeline alone runs it for each candidate. A batch gets a call of its own, with one row
for each candidate and the draws before the loop that its initial latents are made of. It begins at step 0 with what the
pipeline makes of them and goes on from step to step; where the loop can be entered (loop_study.py), also elsewhere.
Other loops are brought to a step by returning the same latents as before from every earlier `step`, without the
denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genscale.engine.origins import Origin, Origins
from genscale.engine.prior import Prior
from genscale.errors import UsageError
from genscale.key import Key
from genscale.pipelines.loop_noise import Draw, LoopNoise, Place
from genscale.pipelines.loop_study import LoopStudy
from genscale.pipelines.noise_interception import Replay, joined
from genscale.pipelines.probed_call import ProbedCall
from genscale.protocol.particles import Candidate

_DIGIT = 16  # rounded exactly in half precision


@dataclass(frozen=True)
class Line:
    """One row of a followed call. prompt: its index. candidate, origin: None for latents of unknown origin."""

    prompt: int
    id: int | None
    candidate: Candidate | None = field(default=None, compare=False)
    origin: Origin | None = field(default=None, compare=False)

    @property
    def own(self) -> bool:
        return self.origin is None or self.origin.own


class FollowedLoop:
    """What the calls of one search share. PipelineCall makes it where the probe saw edits or draws.

    enterable: a call may begin at any step. restarts: other initial latents may be put in place of those that the
    pipeline makes of noise. together: a call may have rows of several candidates. fresh: the draws
    of a call without the user's `latents`, where there are such.
    """

    def __init__(self, call: ProbedCall) -> None:
        self.call, probe = call, call.probe
        self.draws = bool(probe.loop_draws)
        self.enterable = self.together = self.restarts = False
        self.alone, study = True, LoopStudy(call)
        if not self.draws:
            study.look()
            self.enterable, self.together, self.alone = study.enterable, study.together, study.alone
            self.restarts = study.restarts
        if not study.repeats():
            raise UsageError(
                f"{type(call.pipe).__name__} changes its latents in another way in every call, so it cannot be "
                "searched: it draws random numbers in its loop that are not torch's."
            )
        self.fixed = isinstance(call.arguments.given.get("latents"), Tensor)  # by the user
        self.together &= not self.fixed
        self.fresh: list[Tensor] | None = None
        self.noise = LoopNoise(call.arguments.generator, call.rows, probe.loop_draws, call.global_states)
        self.origins = [Origins(from_the_start=not self.enterable) for _ in range(call.rows)]
        self.priors: list[Prior] = []
        self._paths: dict[tuple[int, int], dict[int, Tensor]] = {}
        self._order: Tensor | None = None

    def batch_size(self, wanted: int) -> int:
        """Latents to evaluate together: where candidates cannot be, at least the pipeline's own rows can."""
        return wanted if self.together else min(wanted, self.call.rows)

    def fits_one_call(self, lines: Sequence[Line]) -> bool:
        return self.together or len(lines) == 1 or self.all_own(lines)

    def all_own(self, lines: Sequence[Line]) -> bool:
        """Whether these are the rows of the pipeline's own call."""
        known = all(line.origin is not None and line.own for line in lines)
        return known and [line.prompt for line in lines] == list(range(self.call.rows))

    def check_alone(self, lines: Sequence[Line]) -> None:
        """UsageError: the loop does not treat a row alone as it treats the row in the user's call."""
        if not self.alone and not self.all_own(lines):
            raise UsageError(
                f"{type(self.call.pipe).__name__} edits its latents in its loop by rules that do not hold for one "
                "prompt alone: call it with one prompt at a time, or with candidates=1."
            )

    # ---------------------------------------------------------------- rows

    def line(self, prompt: int, candidate: Candidate) -> Line:
        return Line(prompt, candidate.id, candidate, self.origins[prompt].of(candidate))

    def line_of(self, prompt: int, x: Tensor) -> Line:
        """The line of latents [*latent] that are decoded."""
        candidate = self.origins[prompt].decoded(x)
        return Line(prompt, None) if candidate is None else self.line(prompt, candidate)

    def arguments(self, given: Mapping[str, Any], lines: Sequence[Line]) -> dict[str, Any]:
        """The arguments of a call for these lines, after `Arguments.composed`."""
        made = dict(given)
        if self.fixed and not lines[0].own:
            made["latents"] = None
        if self.draws and "generator" in self.call.arguments.names:
            made["generator"] = self.noise.given if len(lines) > 1 else self.noise.of_row(lines[0].prompt)
        return made

    def replay(self, lines: Sequence[Line], rows: tuple[int, ...]) -> Replay:
        """The draws before the loop for these lines. rows: the row of the probed call that each line repeats."""
        call = self.call
        if all(line.own for line in lines):
            return call.probe.replay_for(rows)
        draws = joined(call.probe.draws if self.fresh is None else self.fresh, call.rows)
        j = self.priors[0].draw
        if j is None or draws[j].shape[0] != call.rows:
            raise self._not_understood()
        made = []
        for line, row in zip(lines, rows, strict=True):
            own = draws[j][row]
            made.append(own if line.own else self._as_draw(line, own))
        return Replay(draws, call.rows, rows, {j: torch.stack(made)})

    def begins_with(self, lines: Sequence[Line], x: Tensor) -> bool:
        """Whether these initial latents [n, *latent] are what the pipeline makes of the lines' noise."""
        for line, row in zip(lines, x, strict=True):
            prior = self.priors[line.prompt]
            made = prior.own if line.own else prior.latents(self._noise(line))
            if not torch.allclose(made.to(row.dtype), row, rtol=1e-6, atol=1e-6):
                return False
        return True

    def check_restart(self) -> None:
        """UsageError: the loop can only start with what the pipeline makes of noise."""
        if not self.restarts:
            raise UsageError(
                f"{type(self.call.pipe).__name__} edits its latents in its loop, which can only start with what the "
                "pipeline makes of noise; this sampler starts with other latents: use one that searches over the noise."
            )

    def _noise(self, line: Line) -> Tensor:
        """The noise [*latent] of a line that is not the pipeline's own."""
        assert line.origin is not None
        if line.origin.noise is not None:
            return line.origin.noise.detach().cpu().float()
        return Key(line.origin.candidate.key).fold("start").normal(tuple(self.call.latents.shape[1:]))

    def _as_draw(self, line: Line, like: Tensor) -> Tensor:
        """The pipeline's draw, as large as `like`, that gives the initial latents of a line."""
        noise = self._noise(line).to(like.device, like.dtype)
        if like.shape == noise.shape:
            return noise
        if self._order is None:
            self._order = self._find_order(like)
        flat = like.flatten().clone()
        known = self._order >= 0
        flat[self._order[known].to(flat.device)] = noise.flatten()[known.to(flat.device)]
        return flat.reshape(like.shape)

    def _find_order(self, draw: Tensor) -> Tensor:
        """For each element of the latents the element of the draw that it is made of; -1 where there is none.

        Found by giving the pipeline the digits of the elements' numbers as noise.
        """
        j, prior = self.priors[0].draw, self.priors[0]
        assert j is not None
        own = self.call.probe.draws if self.fresh is None else self.fresh
        draws, n = joined(own, self.call.rows), draw.numel()
        number, order = torch.arange(n), torch.zeros(prior.scale.numel(), dtype=torch.long)
        scale, offset = prior.scale.double().cpu().flatten(), prior.offset.double().cpu().flatten()
        for digit in range(max(1, math.ceil(math.log(n, _DIGIT)))):
            values = (number // _DIGIT**digit % _DIGIT).to(draw.dtype).reshape(draw.shape)
            given = values.expand_as(draws[j]).to(draws[j].device)
            x = self.call.initial_latents([*draws[:j], given, *draws[j + 1 :]])[0]
            found = ((x.double().cpu().flatten() - offset) / scale).nan_to_num(0, 0, 0).round().long()
            order += found * _DIGIT**digit
        order[(scale == 0) | (order < 0) | (order >= n)] = -1
        known = order[order >= 0].tolist()
        if len(set(known)) != len(known) or not known:
            raise self._not_understood()
        return order

    def _not_understood(self) -> UsageError:
        return UsageError(
            f"how {type(self.call.pipe).__name__} makes its initial latents of noise is not understood, and "
            "its loop uses that noise again: use candidates=1."
        )

    # ---------------------------------------------------------------- steps

    def draw(self, draw: Draw, place: Place, lines: Sequence[Line]) -> Tensor | None:
        if len(lines) > 1:
            return self.noise.draw(draw, place, None, None)
        return self.noise.draw(draw, place, lines[0].prompt, lines[0].origin)

    def remember(self, lines: Sequence[Line], step: int, x: Tensor) -> None:
        """What `step` returned [n, *latent] before these lines came to a step; kept where the loop needs it again."""
        if self.enterable:
            return
        for line, row in zip(lines, x.detach().cpu(), strict=True):
            if line.id is not None:
                self._paths.setdefault((line.prompt, line.id), {})[step] = row

    def path(self, lines: Sequence[Line], step: int, unknown: Tensor | None = None) -> list[Tensor]:
        """What `step` returned before steps 1 to step - 1, each [n, *latent].

        unknown: what stands for steps that a line never came to, such as an estimate. UsageError: there are some, and
        it is None, or the line came to none.
        """
        device = self.call.latents.device
        rows = [
            [self._returned(line, k, None if unknown is None else unknown[i]) for k in range(1, step)]
            for i, line in enumerate(lines)
        ]
        return [torch.stack([row[k].to(device) for row in rows]) for k in range(step - 1)]

    def _returned(self, line: Line, step: int, unknown: Tensor | None) -> Tensor:
        candidates = [] if line.candidate is None else self.origins[line.prompt].line(line.candidate)
        paths = [p for c in candidates if (p := self._paths.get((line.prompt, c.id))) is not None]
        for path in paths:
            if step in path:
                return path[step]
        if unknown is None or (candidates and not paths):
            raise self.refusal()
        return unknown.detach()

    def refusal(self) -> UsageError:
        return UsageError(
            f"{type(self.call.pipe).__name__} keeps more from step to step in its loop than the latents, so it can "
            "only be followed from its first step on, and this search enters it in the middle: use best_of_n or "
            "another sampler that runs each candidate from the start."
        )
