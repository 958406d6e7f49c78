"""Mixes: predictions for several prompts, guidance branches or models at the same latents, combined into one.

Every kind of prediction is affine in the others (genscale.diffusion.prediction), so a combination whose weights sum to
1 is the same for x0, eps, v and flow. Other weights are defined for scores only: s = sum w_i s_i is the score of
prod q_i^w_i at each noise level. This differs from the noised version of the product; genscale.samplers.fkc corrects
for the difference.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genscale.diffusion.mixture_arithmetic import ONE, _exact
from genscale.diffusion.noise_schedule import NoiseLevel
from genscale.diffusion.prediction import View
from genscale.errors import UsageError

BRANCHES = (None, "cond", "uncond")


@dataclass(frozen=True)
class Source:
    """One prediction of a mix.

    prompt: a text, in which "{prompt}" stands for the row's own; None: the row's own. branch: "cond" or "uncond", one
    branch of classifier-free guidance alone; None: both, as the pipeline combines them. model: the name of another
    model with the same latent space; "": the pipeline's own.
    """

    prompt: str | None = None
    branch: str | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if self.branch not in BRANCHES:
            raise UsageError(f"a branch of guidance is 'cond' or 'uncond', not '{self.branch}'.")


@dataclass(frozen=True)
class MixtureContext:
    """The position of a model call in the run: step (of `steps`), its noise level, and the next level of the grid.

    The levels are None if the noise levels of the scheduler cannot be read.
    """

    step: int
    steps: int
    level: NoiseLevel | None = None
    following: NoiseLevel | None = None

    @property
    def fraction(self) -> float:
        """The fraction of the run before this call, in [0, 1)."""
        return self.step / self.steps

    @staticmethod
    def at(view: View | str, step: int, steps: int, time: float | None = None) -> MixtureContext:
        """The context of a model call at a step of the grid. time: linear time of the call, if not that of the step.

        The next level is the first less noisy one of the grid, because second-order schedulers call twice at one level.
        """
        if isinstance(view, str):
            return MixtureContext(step, steps)
        levels = view.schedule
        level = levels.level(step) if time is None else levels.between(time)
        later = (levels.level(i) for i in range(step, levels.steps + 1))
        following = next(
            (other for other in later if other.time < level.time - 1e-9), levels.level(levels.steps)
        )
        return MixtureContext(step, steps, level, following)


class Mix(ABC):
    """Which predictions are combined, and how at each model call. Subclasses are frozen dataclasses."""

    @property
    @abstractmethod
    def sources(self) -> tuple[Source, ...]: ...

    @abstractmethod
    def weights(self, moment: MixtureContext) -> tuple[float, ...]:
        """One weight for each source. A source of weight 0 is not evaluated at this call."""

    def join(self, moment: MixtureContext, outputs: Mapping[Source, Tensor]) -> Tensor | None:
        """The combined output, from the outputs [n, ...] of the active sources; None: their weighted sum."""
        return None

    def models(self) -> Mapping[str, Any]:
        """Models that the mix provides, by the names that its sources use."""
        return {}


@dataclass(frozen=True)
class Weighted(Mix):
    """Fixed weights within the part [start, stop) of the run; outside it only source number `outside` is used."""

    parts: tuple[Source, ...]
    values: tuple[float, ...]
    start: float = 0.0
    stop: float = 1.0
    outside: int = 0

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.values) or not self.parts:
            raise UsageError(
                f"a mix of {len(self.parts)} predictions needs as many weights, not {len(self.values)}."
            )
        if len(set(self.parts)) < len(self.parts):
            raise UsageError("a mix names one prediction twice: add up its weights.")
        if not all(map(math.isfinite, self.values)) or not any(self.values):
            raise UsageError(f"the weights {list(self.values)} of a mix must be finite, and not all 0.")
        if not 0 <= self.outside < len(self.parts):
            raise UsageError(
                f"outside={self.outside} must be the number of one of {len(self.parts)} predictions."
            )
        check_window(self.start, self.stop)

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.parts

    def weights(self, moment: MixtureContext) -> tuple[float, ...]:
        if self.start <= moment.fraction < self.stop:
            return self.values
        return tuple(float(i == self.outside) for i in range(len(self.parts)))


@dataclass(frozen=True)
class Tempered(Mix):
    """The score times a power, which is the score of q^power: below 1 more diverse, above 1 sharper."""

    power: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.power) and self.power > 0):
            raise UsageError(f"power={self.power} must be a number above 0.")

    @property
    def sources(self) -> tuple[Source, ...]:
        return (Source(),)

    def weights(self, moment: MixtureContext) -> tuple[float, ...]:
        return (self.power,)


@dataclass(frozen=True)
class Guided(Mix):
    """A mix whose predictions use a given guidance rule instead of the pipeline's own. The weight of a branch is the
    weight in the mix times the weight in the rule."""

    mix: Mix
    rule: Mix

    def _inner(self, source: Source) -> tuple[Source, ...]:
        if source.branch is not None:
            return (source,)
        return tuple(
            replace(source, branch=s.branch, model=source.model or s.model) for s in self.rule.sources
        )

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(s for source in self.mix.sources for s in self._inner(source))

    def weights(self, moment: MixtureContext) -> tuple[float, ...]:
        rule, total = self.rule.weights(moment), list[float]()
        for source, w in zip(self.mix.sources, self.mix.weights(moment), strict=True):
            total += [w] if source.branch is not None else [w * v for v in rule]
        return tuple(total)

    def models(self) -> Mapping[str, Any]:
        return {**self.mix.models(), **self.rule.models()}

    def join(self, moment: MixtureContext, outputs: Mapping[Source, Tensor]) -> Tensor | None:
        outer = [(s, w) for s, w in zip(self.mix.sources, self.mix.weights(moment), strict=True) if w]
        if abs(sum(w for _, w in outer) - 1) > ONE:
            return None
        made = []
        for source, w in outer:
            inner = dict(zip(self._inner(source), self.rule.sources, strict=False))
            seen = {inner[s]: outputs[s] for s in inner if s in outputs}
            value = outputs[source] if source.branch is not None else self.rule.join(moment, seen)
            if value is None:
                return None
            made.append(w * _exact(value))
        return torch.stack(made).sum(0).to(next(iter(outputs.values())).dtype)


# ---------------------------------------------------------------- common mixes


def rlg(model: str, scale: float, start: float = 0.0, stop: float = 1.0) -> Weighted:
    """Reinforcement-learning guidance (arXiv 2508.21016): base + scale (tuned - base).

    The pipeline is the tuned model, `model` the base; "base" if the tuning is an adapter that can be switched off.
    scale: 0 is the base, 1 the tuned model, above 1 beyond it (paper: 1 to 3). If the tuned model is base * exp(R /
    beta), the mix corresponds to a KL coefficient of beta / scale; exactly so only with the corrector's weights.
    """
    return Weighted((Source(), Source(model=model)), (scale, 1 - scale), start, stop)


def autoguidance(weak: str, scale: float, start: float = 0.0, stop: float = 1.0) -> Weighted:
    """Guidance by a weaker model (Karras et al. 2024, arXiv 2406.02507): weak + scale (own - weak)."""
    return Weighted((Source(), Source(model=weak)), (scale, 1 - scale), start, stop)


def compose(prompts: Sequence[str], weights: Sequence[float] | None = None) -> Weighted:
    """Composition with other prompts (Liu et al. 2022, arXiv 2206.01714): a weighted sum of scores.

    weights: of `prompts`; the row's own prompt gets 1 minus their sum. None: equal weights for all prompts.
    """
    each = [1 / (len(prompts) + 1)] * len(prompts) if weights is None else list(weights)
    parts = (Source(), *(Source(prompt=p) for p in prompts))
    return Weighted(parts, (1 - sum(each), *each))


def negate(prompt: str, weight: float = 1.0) -> Weighted:
    """Guidance away from another prompt: (1 + weight) own - weight other (arXiv 2206.01714, section 4.2)."""
    return Weighted((Source(), Source(prompt=prompt)), (1 + weight, -weight))


def check_window(start: float, stop: float) -> None:
    if not 0 <= start <= stop <= 1:
        raise UsageError(
            f"start={start} and stop={stop} must be two increasing fractions of the run in [0, 1]."
        )
