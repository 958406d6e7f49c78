"""Rules of guidance as mixes: classifier-free guidance and its relatives, by the weights of their sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from genscale.errors import Refusal
from genscale.mix import Linear, Moment, Source, Weighted, finite, window

UNCOND, COND = Source(branch="uncond"), Source(branch="cond")

SCHEDULES: dict[str, Callable[[float], float]] = {
    # How much of (scale - 1) counts at a fraction of the run; each is 1 on average (Wang et al. 2024, arXiv 2404.13040:
    # increasing schedules do better than constant ones).
    "constant": lambda f: 1.0,
    "linear": lambda f: 2 * f,
    "cosine": lambda f: 1 - math.cos(math.pi * f),
}


@dataclass(frozen=True)
class Cfg(Linear):
    """Classifier-free guidance, uncond + w (cond - uncond) (Ho & Salimans 2022, arXiv 2207.12598, whose w is one less).

    scale: w; 1 is the conditional model. start, stop: guidance interval as fractions of the run (Kynkaanniemi et al.
    2024, arXiv 2404.07724); outside only the conditional branch is evaluated. schedule: g in w = 1 + (scale - 1) g.
    """

    scale: float
    start: float = 0.0
    stop: float = 1.0
    schedule: str = "constant"
    sources: ClassVar[tuple[Source, ...]] = (UNCOND, COND)

    def __post_init__(self) -> None:
        finite("a guidance scale", self.scale)
        window(self.start, self.stop)
        if self.schedule not in SCHEDULES:
            raise Refusal(f"a guidance schedule is one of {', '.join(SCHEDULES)}, not {self.schedule!r}.")

    def weights(self, moment: Moment) -> tuple[float, ...]:
        w, fraction = 1.0, moment.fraction
        if self.start <= fraction < self.stop:
            w = 1 + (self.scale - 1) * SCHEDULES[self.schedule](fraction)
        return 1 - w, w


@dataclass(frozen=True)
class CfgPlusPlus(Linear):
    """CFG++ (Chung et al. 2024, arXiv 2406.08070): x0 of (1 - l) uncond + l cond, renoised with the noise of uncond.

    scale: l in [0, 1]. For a step of the ODE from (alpha, sigma) to (alpha', sigma') that is plain guidance of scale
    l r / (r - sigma') with r = sigma alpha' / alpha, so it needs no scheduler of its own, and grows with the number of
    steps. It is that for DDIM or Euler steps of the pipeline's grid; another solver is only guided with that scale.
    """

    scale: float
    sources: ClassVar[tuple[Source, ...]] = (UNCOND, COND)

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= 1:
            raise Refusal(f"CFG++ interpolates: its scale is in [0, 1], unlike {self.scale}; published: 0.6.")

    def weights(self, moment: Moment) -> tuple[float, ...]:
        level, following = moment.level, moment.following
        if level is None or following is None:
            raise Refusal("CFG++ follows the noise levels, which cannot be read here: use plain guidance.")
        ratio = 0.0 if math.isinf(level.kappa) else following.kappa / level.kappa
        w = self.scale / (1 - ratio)
        return 1 - w, w


def rlg(model: str, scale: float, start: float = 0.0, stop: float = 1.0) -> Weighted:
    """Reinforcement-learning guidance (arXiv 2508.21016): own + scale (model - own).

    scale: 1 is the tuned model, more goes on in its direction; 1 to 3 recommended. Outside the window that model alone.
    """
    return Weighted((Source(), Source(model=model)), (1 - scale, scale), start, stop, outside=1)


def autoguidance(
    weak: str, scale: float, branch: str | None = None, start: float = 0.0, stop: float = 1.0
) -> Weighted:
    """Autoguidance (Karras et al. 2024, arXiv 2406.02507), weak + scale (own - weak), `weak` a worse model of the same.

    branch: "cond" as published, for both models without classifier-free guidance; None: as the pipeline combines it.
    Outside the window the pipeline's model alone.
    """
    sources = (Source(model=weak, branch=branch), Source(branch=branch))
    return Weighted(sources, (1 - scale, scale), start, stop, outside=1)


def compose(prompts: Sequence[str], weights: Sequence[float]) -> Weighted:
    """Composition (Liu et al. 2022, arXiv 2206.01714): uncond + sum w_i (cond of prompt i - uncond).

    Each w_i is a guidance scale of its own. Of a pipeline without branches (distilled guidance) use `product`.
    """
    if isinstance(prompts, str) or not prompts or len(prompts) != len(weights):
        raise Refusal(
            f"a composition has one weight for each of its prompts, unlike {prompts} and {weights}."
        )
    sources = (UNCOND, *(Source(prompt=p, branch="cond") for p in prompts))
    return Weighted(sources, (1 - math.fsum(weights), *weights))


def product(prompts: Sequence[str], weights: Sequence[float]) -> Weighted:
    """Product of experts: sum w_i of each prompt's prediction as the pipeline combines it."""
    if isinstance(prompts, str) or not prompts or len(prompts) != len(weights):
        raise Refusal(f"a product has one weight for each of its prompts, unlike {prompts} and {weights}.")
    return Weighted(tuple(Source(prompt=p) for p in prompts), tuple(weights))


def negate(prompt: str, weight: float = 1.0, start: float = 0.0, stop: float = 1.0) -> Weighted:
    """Away from a prompt: own + weight (own - prompt's), each as the pipeline combines it.

    weight: 0 or more. Needs no branches, so it also works where guidance is distilled. Outside the window the
    own prompt alone.
    """
    if not (math.isfinite(weight) and weight >= 0):
        raise Refusal(f"a prompt is negated with a weight of 0 or more, not {weight}.")
    return Weighted((Source(), Source(prompt=prompt)), (1 + weight, -weight), start, stop)
