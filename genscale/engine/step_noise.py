"""Which noise the candidates of one prompt get: at the start, in a kernel, in steps of the pipeline's scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genscale.engine.holding import Holding
from genscale.engine.prior import Prior
from genscale.key import Key
from genscale.numerics.transfers import to_device
from genscale.protocol.particles import OWN, Candidate


def start_key(candidate: Candidate) -> Key:
    """Of the noise that a candidate's initial latents are made of."""
    return Key(candidate.key).fold("start")


def kernel_key(candidate: Candidate, step: int) -> Key:
    """Of the noise of a kernel's transition from a step."""
    return Key(candidate.key).fold("kernel", step)


class StepNoise:
    """The noise of many candidates at once, on the device where it is used.

    own_draw: (step, draw) -> [*latent], what the pipeline's own run draws inside solver steps. further_draw: (image,
    step, draw) -> that of the prompt's image 1, 2, ... (`prior.further`).
    """

    def __init__(
        self,
        prior: Prior,
        own_draw: Callable[[int, int], Tensor] | None,
        further_draw: Callable[[int, int, int], Tensor] | None,
    ) -> None:
        self.prior, self.own_draw, self.further_draw = prior, own_draw, further_draw
        self._draws = 0  # that a step of the pipeline's scheduler asks for, as far as is known

    def initial(
        self,
        candidates: Sequence[Candidate],
        given: Sequence[Tensor | None],
        still_paid: int,
        holding: Holding,
    ) -> Tensor:
        """Initial latents [n, *latent]: those that the call gives, the others from the candidates' keys.

        still_paid: how many further candidates the budget pays for; the next ones are likely to be asked for.
        """
        given = [None if x is None else holding.aside(x) for x in given]
        drawn = [c for c, x in zip(candidates, given, strict=True) if x is None]
        if not drawn:
            return torch.stack([x for x in given if x is not None])
        made = self.prior.latents(self.prior.noise.stack([start_key(c) for c in drawn]), holding)
        last = drawn[-1]
        if last.origin == "prior":
            following = range(last.id + 1, last.id + 1 + min(len(candidates), still_paid))
            self.prior.noise.expect([Key((*last.key[:-1], i)).fold("start") for i in following])
        if len(drawn) == len(given):
            return made
        rows = iter(made)
        return torch.stack([next(rows) if x is None else x for x in given])

    def of_kernel(self, candidates: Sequence[Candidate], step: int, device: torch.device) -> Tensor:
        return self._of_keys([kernel_key(c, step) for c in candidates], device)

    def of_renoising(self, candidates: Sequence[Candidate], step: int, device: torch.device) -> Tensor:
        """That which takes latents back to a noisier step."""
        return self._of_keys([Key(c.key).fold("renoise", step) for c in candidates], device)

    def of_solver(
        self, candidates: Sequence[Candidate], step: int, draw: int, device: torch.device
    ) -> Tensor:
        """The draw number `draw` of a step of the pipeline's own scheduler."""
        self._draws = max(self._draws, draw + 1)
        given = [self._own(c, step, draw) for c in candidates]
        drawn = [_solver_key(c, step, draw) for c, x in zip(candidates, given, strict=True) if x is None]
        made = self._of_keys(drawn, device)
        if len(drawn) == len(given):
            return made
        rows = iter(made)
        return torch.stack([next(rows) if x is None else to_device(x, device) for x in given])

    def expect(self, candidates: Sequence[Candidate], step: int, kernel: bool) -> None:
        """Have the noise of the step made that these candidates take next, by a kernel or the pipeline's scheduler."""
        if kernel:
            self.prior.noise.expect([kernel_key(c, step) for c in candidates])
        else:
            draws = range(self._draws)
            self.prior.noise.expect(
                [_solver_key(c, step, j) for j in draws for c in candidates if c.id != OWN]
            )

    def _of_keys(self, keys: Sequence[Key], device: torch.device) -> Tensor:
        return to_device(self.prior.noise.stack(keys), device)

    def _own(self, candidate: Candidate, step: int, draw: int) -> Tensor | None:
        """What the pipeline's own run draws for this candidate; None: it is drawn from its key."""
        if candidate.id == OWN and self.own_draw is not None:
            return self.own_draw(step, draw)
        if self.further_draw is not None and self.prior.given(candidate) is not None:
            return self.further_draw(candidate.id, step, draw)
        return None


def _solver_key(candidate: Candidate, step: int, draw: int) -> Key:
    return Key(candidate.key).fold("step", step, draw)
