"""Mixing predictions: several sources (prompts, guidance branches, models) answer, one prediction is made of them.

All sources see the same latents x = alpha x0 + sigma eps at the same level. There the maps between eps, x0, v and
flow are affine with the same linear part for all, so a combination whose weights sum to 1 is the same in every kind of
prediction. Weights that do not sum to 1 (products of experts, annealing) mean a combination of scores, -eps / sigma.

The mix sum w_i eps_i is the score of prod q_i^w_i at this level, but one such level is not the noised version of the
next: what a run of mixed predictions draws is not prod q_i^w_i of the clean densities. `rate` is what it misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from genscale.errors import Refusal
from genscale.prediction import View
from genscale.schedule import Level

BRANCHES = ("cond", "uncond")
_ONE = 1e-9  # how far from 1 a sum of weights may be and still be 1


@dataclass(frozen=True)
class Source:
    """What is evaluated for one part of a mix.

    prompt: None for the row's own; "{prompt}" in it is replaced by that. branch: "cond" or "uncond" for one branch of
    classifier-free guidance alone, None as the pipeline combines them. model: another model that shares the latent
    space, by name; "" is the pipeline's own.
    """

    prompt: str | None = None
    branch: str | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if self.branch is not None and self.branch not in BRANCHES:
            raise Refusal(
                f"a source of a mix has branch 'cond' or 'uncond', or none, not {self.branch!r}: name one of these."
            )

    @property
    def own(self) -> bool:
        """Whether it is just what the pipeline would answer."""
        return self == Source()


@dataclass(frozen=True)
class Moment:
    """Where in the run a model call is.

    step: of `steps` model calls of the pipeline's grid (the nearest one, for a call between its levels). level: of
    this call; following: the next less noisy level of the grid. Both None where they cannot be read.
    """

    step: int
    steps: int
    level: Level | None = None
    following: Level | None = None

    @property
    def fraction(self) -> float:
        """Share of the run that is done before this call, in [0, 1)."""
        return self.step / self.steps


@dataclass(frozen=True)
class Part:
    """The answer of one source that has weight: `value` [n, ...] as the model gave it for latents x [n, *latent]."""

    source: Source
    weight: float
    value: Tensor
    x: Tensor
    view: View | str  # how to read it, the same for all parts; or why that is not possible


class Mix(Protocol):
    """A rule that makes one prediction of several."""

    linear: ClassVar[bool]  # whether it is the weighted sum of scores, so that `rate` is known

    @property
    def sources(self) -> tuple[Source, ...]: ...
    def weights(self, moment: Moment) -> tuple[float, ...]:
        """One number a source; those of weight 0 are not evaluated."""

    def join(self, parts: Sequence[Part], moment: Moment) -> Tensor:
        """What stands for the model's output, in the kind, shape and dtype of the first part's."""


class Linear:
    """The weighted sum, as most rules have it."""

    linear: ClassVar[bool] = True

    def join(self, parts: Sequence[Part], moment: Moment) -> Tensor:
        return weighted(parts, moment)


def weighted(parts: Sequence[Part], moment: Moment) -> Tensor:
    """The weighted sum of predictions, as an output of the model's kind, worked out in float32 or better.

    With weights that sum to 1 the outputs themselves are summed; else, or where they differ in shape, their scores.
    Of a learned variance, the second half of the channels is the first part's. A limit on clean estimates is left for
    the scheduler to apply to the mix, as it is with guidance: parts are not limited. At pure noise, alpha = 0, where
    weights that do not sum to 1 give no finite x0, they are divided by their sum: that is the mean of the product of
    Gaussians. Refusal where a sum of scores is asked for and the levels are unknown.
    """
    first, total = parts[0], math.fsum(p.weight for p in parts)
    halves = [_split(p) for p in parts]
    alike = all(h[0].shape == halves[0][0].shape for h in halves)
    if alike and abs(total - 1) <= _ONE:
        made = _sum([p.weight for p in parts], [h[0] for h in halves])
    else:
        made = _of_scores(parts, moment, total)
    made, rest = made.to(first.value.dtype), halves[0][1]
    return made if rest is None else torch.cat([made, rest], 1)


def rate(parts: Sequence[Part], moment: Moment) -> Tensor:
    """d log w / d log(alpha / sigma), float64 [n]: |sum w eps|^2 - sum w |eps|^2 over the whole latent.

    Feynman-Kac correctors (Skreta et al. 2025, arXiv 2503.02819, section 3; its cases are this one formula): particles
    that follow the mix, with any churn, and carry these log-weights, are a weighted sample of prod q_i^w_i at every
    level. Worked out around one of the parts, since the two terms are nearly equal. Limits on x0 do not enter: with
    one the weights are no longer exact. Refusal where the levels are unknown.
    """
    weights = [p.weight for p in parts]
    eps = [pair(p, moment)[1].double().flatten(1) for p in parts]
    # With any m and S = sum w e:  |S|^2 - sum w |e|^2 = |S - m|^2 + (sum w - 1) |m|^2 - sum w |e - m|^2
    first, more = eps[0], total_of(weights) - 1
    gaps = [e - first for e in eps]
    moved = _sum(weights, gaps) + more * first
    return (
        moved.square().sum(1)
        + more * first.square().sum(1)
        - _sum(weights, [g.square().sum(1) for g in gaps])
    )


def pair(part: Part, moment: Moment) -> tuple[Tensor, Tensor]:
    """(x0, eps) of a part, without the scheduler's limit. Refusal where the levels are unknown."""
    view, level = _readable(part, moment)
    return view.pair(level, part.value, part.x, limited=False)


def total_of(weights: Sequence[float]) -> float:
    """The sum of weights, exactly 1 where it is 1 but for rounding."""
    total = math.fsum(weights)
    return 1.0 if abs(total - 1) <= _ONE else total


def _of_scores(parts: Sequence[Part], moment: Moment, total: float) -> Tensor:
    view, level = _readable(parts[0], moment)
    weights, pairs = [p.weight for p in parts], [pair(p, moment) for p in parts]
    if level.alpha == 0:
        if abs(total) <= _ONE:
            raise Refusal(
                "the weights of a mix sum to 0 at pure noise, where they then have no meaning: start it later."
            )
        weights = [w / total for w in weights]
    eps = _sum(weights, [e for _, e in pairs])
    if abs(math.fsum(weights) - 1) <= _ONE:
        x0 = _sum(weights, [x0 for x0, _ in pairs])
    else:
        x0 = (parts[0].x.to(eps.dtype) - level.sigma * eps) / level.alpha
    return view.output_at(level, x0, eps)


def _readable(part: Part, moment: Moment) -> tuple[View, Level]:
    if isinstance(part.view, str) or moment.level is None:
        raise Refusal(
            f"this mix needs the noise levels, and {part.view}: use weights that sum to 1, without correction."
        )
    return part.view, moment.level


def _split(part: Part) -> tuple[Tensor, Tensor | None]:
    """A model output, and the second half of its channels if that is a variance."""
    value, x, view = part.value, part.x, part.view
    channels = x.shape[1] if x.ndim > 1 else 0
    doubled = value.ndim == x.ndim and channels and value.shape[1] == 2 * channels
    if doubled and (isinstance(view, str) or view.learned_variance):
        return value[:, :channels], value[:, channels:]
    return value, None


def _sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """In float32 or better."""
    dtype = torch.float32
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype)
    made = weights[0] * tensors[0].to(dtype)
    for w, t in zip(weights[1:], tensors[1:], strict=True):
        made = made + w * t.to(dtype)
    return made


def window(start: float, stop: float) -> None:
    """Refuse a window [start, stop) that is none of the run's fraction."""
    if not 0 <= start < stop <= 1:
        raise Refusal(
            f"a mix that holds from {start} to {stop} has no place in a run: give fractions, 0 <= start < stop <= 1."
        )


def finite(name: str, *values: float) -> None:
    """Refuse numbers that are none."""
    if not all(math.isfinite(v) for v in values):
        raise Refusal(f"{name} must be finite, unlike {', '.join(map(str, values))}.")


@dataclass(frozen=True)
class Weighted(Linear):
    """Any sources with any weights: sum values_i prediction_i.

    start, stop: the fraction of the run in which that holds; before and after, only source number `outside` counts.
    """

    sources: tuple[Source, ...]
    values: tuple[float, ...]
    start: float = 0.0
    stop: float = 1.0
    outside: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "values", tuple(float(v) for v in self.values))
        if len(self.sources) != len(self.values) or not any(self.values):
            raise Refusal(
                f"a mix of {len(self.sources)} sources has as many weights, not all 0, unlike {list(self.values)}."
            )
        finite("the weights of a mix", *self.values)
        window(self.start, self.stop)
        if self.outside not in range(len(self.sources)):
            raise Refusal(
                f"outside={self.outside} is no source of this mix: choose 0 to {len(self.sources) - 1}."
            )

    def weights(self, moment: Moment) -> tuple[float, ...]:
        if self.start <= moment.fraction < self.stop:
            return self.values
        return tuple(float(i == self.outside) for i in range(len(self.sources)))


@dataclass(frozen=True)
class Tempered(Linear):
    """Annealing: q^power, the score times `power` > 0; more than 1 sharpens."""

    power: float
    source: Source = Source()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.power) and self.power > 0):
            raise Refusal(f"a density is tempered by a power above 0, not {self.power}.")

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)

    def weights(self, moment: Moment) -> tuple[float, ...]:
        return (self.power,)
