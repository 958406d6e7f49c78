"""Guidance rules: how the conditional and the unconditional prediction are combined."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from genscale.call_syntax import Call, parse_call
from genscale.diffusion.mixtures import Mix, MixtureContext, Source, Weighted, check_window
from genscale.errors import UsageError

BOTH = (Source(branch="uncond"), Source(branch="cond"))

# Factor of (scale - 1) at a fraction of the run; each has mean 1 over the run (Wang et al. 2024, arXiv 2404.13040,
# section 4).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda f: 1.0,
    "linear": lambda f: 2 * f,
    "cosine": lambda f: 1 - math.cos(math.pi * f),
}


@dataclass(frozen=True)
class Cfg(Mix):
    """uncond + scale (cond - uncond) (Ho & Salimans 2022, arXiv 2207.12598), within the part [start, stop) of the run.

    Outside it only the conditional branch is evaluated, at half the cost (interval guidance, Kynkaanniemi et al. 2024,
    arXiv 2404.07724, there an interval of noise levels). scale: 1 is no guidance, 0 unconditional. schedule: how
    scale - 1 changes along the run: "constant", or growing "linear" or "cosine", all with the same mean.
    """

    scale: float = 7.5
    start: float = 0.0
    stop: float = 1.0
    schedule: str = "constant"

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UsageError(f"cfg scale={self.scale} must be a finite number.")
        if self.schedule not in SCHEDULES:
            raise UsageError(
                f"cfg schedule='{self.schedule}' is unknown: it is one of {', '.join(SCHEDULES)}."
            )
        check_window(self.start, self.stop)

    @property
    def sources(self) -> tuple[Source, ...]:
        return BOTH

    def weights(self, moment: MixtureContext) -> tuple[float, ...]:
        if not self.start <= moment.fraction < self.stop:
            return 0.0, 1.0
        middle = (moment.step + 0.5) / moment.steps  # so that the mean over the steps is the schedule's
        w = 1 + (self.scale - 1) * SCHEDULES[self.schedule](middle)
        return 1 - w, w


@dataclass(frozen=True)
class CfgPlusPlus(Mix):
    """CFG++ (Chung et al. 2024, arXiv 2406.08070): x0 from uncond + scale (cond - uncond), noise from uncond.

    scale: in [0, 1] (paper: 0.6). A DDIM or Euler step to the next level (marked ') is the same as a step with plain
    guidance of weight scale * k, where k = (sigma alpha' / alpha) / (sigma alpha' / alpha - sigma'). It is computed in
    this way. k grows with the number of steps. With other solvers the guidance is the same, but the step differs from
    that of the paper.
    """

    scale: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= 1:
            raise UsageError(
                f"cfg++ scale={self.scale} must be in [0, 1]: it is not the scale of plain guidance."
            )

    @property
    def sources(self) -> tuple[Source, ...]:
        return BOTH

    def weights(self, moment: MixtureContext) -> tuple[float, ...]:
        level, following = moment.level, moment.following
        if level is None or following is None:
            raise UsageError("cfg++ depends on the noise levels, and those of this scheduler cannot be read.")
        w = self.scale
        if level.alpha > 0 and following.sigma > 0:
            moved = level.sigma * following.alpha / level.alpha
            w = self.scale * moved / (moved - following.sigma)
        return 1 - w, w


RULES: dict[str, type[Cfg] | type[CfgPlusPlus]] = {"cfg": Cfg, "cfg++": CfgPlusPlus}
FORMS = "cfg(7.5), cfg(7.5, 0.2, 0.8), cfg(scale=7.5, schedule=linear), cfg++(0.6)"


def parse_guidance(text: str) -> Call:
    """The name, in lower case, and arguments of "name(1, other=2)". UsageError: cannot be read."""
    call = parse_call(text)
    if call is None:
        raise UsageError(f"guidance '{text}' cannot be read: write {FORMS}.")
    return replace(call, name=call.name.lower())


def rule(text: str) -> Mix | None:
    """The rule of a text such as "cfg(7.5, 0.2, 0.8)"; None if it names no rule of RULES."""
    call = parse_guidance(text)
    name, placed, named = call.name, call.by_place, call.by_name
    if name not in RULES:
        return None
    cls = RULES[name]
    known = [f.name for f in fields(cls)]
    given = dict(zip(known, placed, strict=False)) | named
    if len(placed) > len(known) or set(named) - set(known) or set(named) & set(known[: len(placed)]):
        raise UsageError(f"guidance '{text}' cannot be read: {name} takes {', '.join(known)}.")
    try:
        return cls(**{k: v if k == "schedule" else float(v) for k, v in given.items()})  # type: ignore[arg-type]
    except ValueError:
        raise UsageError(f"guidance '{text}' cannot be read: write numbers, as in {FORMS}.") from None


# ---------------------------------------------------------------- from text


OWN, PROMPT = "own", "prompt"


def weighted(terms: Sequence[str]) -> Weighted | None:
    """The mix of terms "MODEL:WEIGHT" and "prompt=TEXT:WEIGHT"; None if there are none.

    The pipeline's own prediction gets the weight of "own:WEIGHT", or by default 1 minus the sum of the other weights.
    """
    parts, values, own = list[Source](), list[float](), None
    for term in terms:
        name, colon, number = term.rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not colon or not name or not math.isfinite(weight):
            raise UsageError(
                f"mix '{term}' cannot be read: write MODEL:WEIGHT or 'prompt=TEXT:WEIGHT', such as base:-0.6."
            )
        if name == OWN:
            own = weight
            continue
        key, equals, text = name.partition("=")
        parts.append(Source(prompt=text) if equals and key == PROMPT else Source(model=name))
        values.append(weight)
    if own is None:
        own = 1 - math.fsum(values)
    return Weighted((Source(), *parts), (own, *values)) if terms else None
