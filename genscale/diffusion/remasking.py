"""ReMDM: masked diffusion whose committed tokens may be masked again (Wang et al. 2025, arXiv 2503.00307, section 3).

alpha is the share of tokens that are committed: 0 before the first step, 1 after the last. In a step from alpha_t to
alpha_s a committed token is masked again with probability sigma, and a masked one becomes the predicted token with
probability [alpha_s - (1 - sigma) alpha_t] / (1 - alpha_t). Then a token is committed with probability alpha_s after
the step, whatever sigma is, so a model that was trained for masked diffusion (MDLM, MaskGIT) needs no other training.
sigma = 0 is MDLM. The second probability is in [0, 1] for 0 <= sigma <= min{1, (1 - alpha_s) / alpha_t}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.errors import UsageError

RULES = ("cap", "rescale", "conf")
PUBLISHED = {"cap": 0.04, "rescale": 0.05, "conf": 1.0}
"""eta: of cap for fewer steps than tokens (text), of rescale for MaskGIT on ImageNet; conf has none, which is 1."""
PUBLISHED_IN_LOOP = 0.055  # of cap, for fewer steps than tokens
LOOP = (0.55, 0.05, 0.9)
"""t_on, t_off and alpha_on of the published loop."""
_ROUNDING = 1e-6


def most_remasking(before: Tensor, after: Tensor) -> Tensor:
    """The bound of sigma, min{1, (1 - alpha_s) / alpha_t}; 1 where nothing is committed.

    before, after: alpha_t and alpha_s in [0, 1], of any shape.
    """
    return ((1 - after) / before.clamp(min=1e-12)).clamp(max=1.0)


def commit_probability(before: Tensor, after: Tensor, sigma: Tensor) -> Tensor:
    """Probability that a masked token becomes the predicted one; 0 where none is masked.

    before, after: alpha_t <= alpha_s. sigma: probability that a committed token is masked. All of one shape.
    UsageError: sigma is negative or above its bound, so that this is no probability.
    """
    if bool((sigma < 0).any()) or bool((sigma > most_remasking(before, after) + _ROUNDING).any()):
        raise UsageError(
            f"sigma={float(sigma.max()):g} is outside [0, {float(most_remasking(before, after).min()):g}]: a step from "
            f"alpha={float(before.max()):g} to {float(after.min()):g} can mask no larger share of the tokens again."
        )
    return ((after - (1 - sigma) * before) / (1 - before).clamp(min=1e-12)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Remasking:
    """Which committed tokens are masked again (section 4.1 of the paper).

    rule: "cap": sigma = min{eta, bound}. "rescale": sigma = eta * bound. "conf": sigma_l = eta * bound * w_l, where w
        is the softmax over the committed tokens of -psi, and psi the probability that a token had when it was
        committed; the weights sum to 1, so that about one token is masked again at most.
    eta: in [0, 1]. None: the published value: cap 0.04 (0.055 in a loop), rescale 0.05, conf 1. 0 masks nothing again.
    switch: time in (0, 1] below which it is on; the run goes from t = 1 to t = 0. None: always.
    loop: (t_on, t_off, alpha_on): alpha rises to alpha_on until t_on, stays there until t_off, the only time in which
        tokens are masked again, and rises to 1 then. The published one is (0.55, 0.05, 0.9). None: no loop.

    UsageError: a value is out of its range.
    """

    rule: str = "rescale"
    eta: float | None = None
    switch: float | None = None
    loop: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(f"rule='{self.rule}' of remasking is unknown: it is one of {', '.join(RULES)}.")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise UsageError(f"eta={self.eta} of remasking must be a number in [0, 1].")
        if self.switch is not None and not 0 < self.switch <= 1:
            raise UsageError(f"switch={self.switch} of remasking must be a time in (0, 1].")
        if self.switch is not None and self.loop is not None:
            raise UsageError(
                "switch and loop of remasking both say when tokens are masked again: give one of them."
            )
        if self.loop is not None:
            on, off, level = self.loop
            if not (0 <= off < on < 1 and 0 < level < 1):
                raise UsageError(
                    f"loop={tuple(self.loop)} of remasking must be (t_on, t_off, alpha_on) with 0 <= t_off < t_on < 1 "
                    "and alpha_on in (0, 1)."
                )

    @property
    def strength(self) -> float:
        """eta, or the published one."""
        if self.eta is not None:
            return self.eta
        return PUBLISHED_IN_LOOP if self.loop is not None and self.rule == "cap" else PUBLISHED[self.rule]

    def is_on(self, time: float) -> bool:
        """Whether tokens are masked again in the step that begins at this time."""
        if self.loop is not None:
            return self.loop[1] + _ROUNDING < time <= self.loop[0] + _ROUNDING
        return self.switch is None or time < self.switch

    def warped(self, progress: float, level: float) -> float:
        """Where in the plain schedule a run with a loop is. progress: 1 - t. level: where its alpha is alpha_on."""
        if self.loop is None:
            return progress
        on, off = 1 - self.loop[0], 1 - self.loop[1]
        if progress <= on:
            return level * progress / on
        return level if progress <= off else level + (1 - level) * (progress - off) / (1 - off)

    def rates(self, before: Tensor, after: Tensor, committed: Tensor, masked: Tensor, psi: Tensor) -> Tensor:
        """sigma of each token, [n, length]: of a committed one and of a masked one, which is committed accordingly.

        before, after: alpha_t and alpha_s, [n, 1]. committed, masked: bool [n, length]. psi: [n, length], as of "conf".
        There sigma of the masked tokens is such that in each row as many more are committed, on average, as are masked
        again. The paper leaves it at 0, by which more tokens stay masked than alpha_s says.
        """
        bound = most_remasking(before, after)
        sigma = bound.clamp(max=self.strength) if self.rule == "cap" else self.strength * bound
        if self.rule != "conf":
            return sigma.broadcast_to(committed.shape)
        of_committed = sigma * (-psi).masked_fill(~committed, -math.inf).softmax(-1).nan_to_num(0.0)
        again = of_committed.sum(-1, keepdim=True) / masked.sum(-1, keepdim=True).clamp(min=1)
        of_masked = (again * (1 - before) / before.clamp(min=1e-12)).minimum(bound)
        return torch.where(committed, of_committed, of_masked)


def remask_step(
    tokens: Tensor,
    predicted: Tensor,
    rates: Tensor,
    committed: Tensor,
    before: Tensor,
    after: Tensor,
    mask: int,
    uniform: Tensor,
) -> Tensor:
    """One step of ReMDM, each token by itself: int64 [n, length].

    tokens: int64 [n, length]. predicted: a token for each. rates: sigma of each. committed: bool [n, length], which may
    be masked again; tokens that are neither this nor masked stay. before, after: alpha_t and alpha_s, [n, 1]. mask: the
    number of the mask token. uniform: [n, length] in [0, 1).
    """
    chance = commit_probability(before, after, rates)
    made = torch.where((tokens == mask) & (uniform < chance), predicted, tokens)
    return torch.where(committed & (uniform < rates), mask, made)
