"""Stop rules: end the search of a prompt by the scores of its finished candidates.

A rule sees the totals in the order in which the sampler asked for them, and nothing else: no clock, no batch, no other
prompt. So a search stops at the same candidate whatever the batch size, and after it is resumed. The rules are asked
about every candidate, but those of the same query are finished: a sampler that asks for 16 at a time ends after the 16
in which a rule first stops it (best_of_n has `wave` for smaller ones).

Measured on the bundled toy flow model (80 prompts, 8 steps, at most 64 candidates, searched with
shapes_clip; best score less that of best_of_n with one N for all that costs the same, paired, 95 %): patience:8 takes
15.6 candidates on average, -0.0008 +- 0.0017; gain:0.002:range=0..1 28.2, -0.0013 +- 0.0014;
adaptive:0.94:range=0..1 24.2, +0.0002 +- 0.0017, and brings 88 % of the prompts to 0.94 instead of 79 %. So a rule
reaches about the mean score of a fixed N of the same cost, and no more; it saves choosing N. Scores of this model have
a long tail of failures: a fitted normal distribution is too wide, and the rules that fit one stop late.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from genscale.errors import UsageError
from genscale.numerics.truncated_normal import Truncated

FORMS = "patience:8, gain:0.02, gain:0.01sd, adaptive:0.9, or several joined by commas"
_UNITS = ("score", "sd")
Range = tuple[float, float]
_ALL: Range = (-math.inf, math.inf)


@runtime_checkable
class StopRule(Protocol):
    """One reason to stop. Its `str` names it in the record."""

    def stops(self, totals: Sequence[float]) -> bool:
        """Whether to stop after these totals (at least one), of which the last is new."""


Rule = StopRule  # its name before it was public


@dataclass(frozen=True)
class Stopped:
    """Why a search ended.

    rule: the stop rule or target, as text. after: number of candidates that were finished by then.
    """

    rule: str
    after: int


@dataclass(frozen=True)
class Target:
    """Stop when a total is at least this. It is written as part of a budget: "target=0.35"."""

    total: float

    def stops(self, totals: Sequence[float]) -> bool:
        return totals[-1] >= self.total

    def __str__(self) -> str:
        return f"target={_text(self.total)}"


@dataclass(frozen=True)
class Patience:
    """Stop after this many finished candidates in a row that did not improve the best score.

    It assumes nothing about scores or sampler. Practitioners use 4 to 8.
    """

    candidates: int

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UsageError(f"patience:{self.candidates} must be at least 1.")

    def stops(self, totals: Sequence[float]) -> bool:
        best = max(totals)
        return len(totals) - 1 - totals.index(best) >= self.candidates

    def __str__(self) -> str:
        return f"patience:{self.candidates}"


@dataclass(frozen=True)
class MarginalGain:
    """Stop when one more candidate is expected to add less than `least` to the best.

    The expected gain is E[max(X - best, 0)] under a normal distribution, truncated to `range`, that is fitted to all
    scores so far by maximum likelihood. unit: "score", that of the scores, or "sd", standard deviations of the fitted
    distribution. The rule assumes that the next candidate is another independent draw, which holds for best_of_n. For
    searches that improve on their best candidate use patience.
    least: of independent normal scores 0.02 sd is reached after 10 candidates in the median (one search in ten
    goes on past 23), 0.01 sd after 17 (48), 0.005 sd after 31 (94).
    peek: scores before the first fit (8, ours); use more for a verifier that gives most candidates the same score.
    most: candidates at which it always stops (256, the most in Ma et al. 2025, arXiv 2501.09732).
    range: bounds of the verifier's scores, none by default; a score outside widens it.
    """

    least: float
    unit: str = "score"
    peek: int = 8
    most: int = 256
    range: Range = _ALL

    def __post_init__(self) -> None:
        if not 0 < self.least < math.inf:
            raise UsageError(f"gain:{_text(self.least)} must be a number above 0, or it never stops.")
        if self.unit not in _UNITS:
            raise UsageError(f"unit='{self.unit}' of a gain is unknown: it is one of {', '.join(_UNITS)}.")
        _check_fit("gain", self.peek, self.most, self.range)

    def stops(self, totals: Sequence[float]) -> bool:
        if not self.peek <= len(totals) < self.most:
            return len(totals) >= self.most
        law = Truncated.fit(totals, *self.range)
        unit = law.std if self.unit == "sd" else 1.0
        return law.improvement(max(totals)) < self.least * unit or law.variance == 0

    def __str__(self) -> str:
        unit = "" if self.unit == "score" else self.unit
        return f"gain:{_text(self.least)}{unit}" + _options(self, "peek", "most", "range")


@dataclass(frozen=True)
class AdaptiveN:
    """Best of N with N chosen by the first scores (OptScale, 2025, arXiv 2506.22376).

    A normal distribution, truncated to `range`, is fitted to the first `peek` scores by maximum likelihood. N is the
    smallest number for which the p-quantile of the best of N reaches `target`: with probability 1 - p the best of N
    reaches it.
    target: in the unit of the scores (published for scores in [0, 1]: 0.85 to 0.99). p: 0.01 to 0.1 published; 0.05.
    peek: 3 to 5 published; 5. most: N is at most this; 8 to 64 published; 64.
    range: bounds of the verifier's scores. OptScale's is [0, 1] (range=0..1); verifiers here have other units, so it
    is none by default, a plain normal distribution; a score outside widens it.

    Differences: the quantile is exact (the authors' code reads it off a grid of 1000 points and the density's sum),
    and there is no learned predictor of the distribution before the first score (their MAP variant). As published, a
    candidate that reaches the target early does not end the search: add target=... to the budget for that.
    """

    target: float
    p: float = 0.05
    peek: int = 5
    most: int = 64
    range: Range = _ALL

    def __post_init__(self) -> None:
        if not math.isfinite(self.target):
            raise UsageError(f"adaptive:{self.target} is not a target: give a finite score.")
        if not 0 < self.p < 1:
            raise UsageError(f"p={_text(self.p)} of adaptive must be a chance between 0 and 1, such as 0.05.")
        _check_fit("adaptive", self.peek, self.most, self.range)

    def stops(self, totals: Sequence[float]) -> bool:
        return len(totals) >= self.peek and len(totals) >= self.chosen(totals[: self.peek])

    def chosen(self, first: Sequence[float]) -> float:
        """N, from the first scores."""
        law = Truncated.fit(first, *self.range)
        return min(self.most, max(self.peek, law.needed(self.target, self.p)))

    def __str__(self) -> str:
        return f"adaptive:{_text(self.target)}" + _options(self, "p", "peek", "most", "range")


@dataclass(frozen=True)
class Stop:
    """Stop rules; the first that applies ends the search of a prompt."""

    rules: tuple[StopRule, ...]

    @staticmethod
    def of(given: Any) -> Stop | None:
        """A Stop from text, a rule, several rules, or a Stop; None stays None."""
        if given is None or isinstance(given, Stop):
            return given
        if isinstance(given, str):
            return Stop.parse(given)
        rules = tuple(given) if isinstance(given, Iterable) else (given,)
        for rule in rules:
            if not isinstance(rule, StopRule):
                raise UsageError(
                    f"{rule!r} is not a stop rule: write {FORMS}, or give an object with stops(totals)."
                )
        return Stop(rules) if rules else None

    @staticmethod
    def parse(text: str) -> Stop:
        """Read "patience:8", "gain:0.02", "gain:0.01sd:peek=16", "adaptive:0.9:p=0.1:range=0..1" or several."""
        return Stop(tuple(_parse(text, part) for part in re.sub(r"\s+", "", text).split(",")))

    def __str__(self) -> str:
        return ",".join(map(str, self.rules))


def stop_rules(target: float | None, stop: Stop | None, pointwise: bool) -> tuple[StopRule, ...]:
    """The rules of a search, its target score first. pointwise: whether totals do not depend on other candidates.

    UsageError: they do, and there are rules.
    """
    given = [] if target is None else ["a target score"]
    given += [] if stop is None else [f"stop '{stop}'"]
    if given and not pointwise:
        raise UsageError(
            f"{given[0]} needs scores that do not depend on the other candidates, as ranks do: use the weighted "
            "ensemble."
        )
    return (() if target is None else (Target(target),)) + (stop.rules if stop else ())


def first_stop(rules: Sequence[StopRule], totals: Sequence[float], seen: int = 0) -> Stopped | None:
    """The first candidate after which a rule applies, and that rule. seen: how many totals were checked before."""
    for n in range(seen + 1, len(totals) + 1):
        for rule in rules:
            if rule.stops(totals[:n]):
                return Stopped(str(rule), n)
    return None


def kl_of_best(n: int) -> float:
    """Upper bound in nats of KL(best of n || model), for n independent draws of the model: log n - (n - 1) / n.

    It holds for every score, with ties and rank ensembles too, if n was not chosen by the scores. (Let w be the density
    ratio of the chosen draw to the model. Then KL = E[log w(chosen)] <= E[max log w], which by the variational formula
    of Donsker & Varadhan is at most the KL of the best of n by w itself; and that is log n - (n - 1) / n, or less where
    w has ties.)
    """
    return math.log(n) - (n - 1) / n


# --------------------------------------------------------------------------------------------- text

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_KINDS: dict[str, tuple[type[Any], str]] = {
    "patience": (Patience, r"(?P<value>[-+]?\d+)"),
    "gain": (MarginalGain, rf"(?P<value>{_NUMBER})(?P<unit>sd)?"),
    "adaptive": (AdaptiveN, rf"(?P<value>{_NUMBER})"),
}
_OPTIONS = {"patience": (), "gain": ("peek", "most", "range"), "adaptive": ("p", "peek", "most", "range")}


def _parse(text: str, part: str) -> StopRule:
    refusal = UsageError(f"stop '{text}': cannot read '{part}'; write {FORMS}.")
    name, _, rest = part.partition(":")
    value, *options = rest.split(":")
    cls, form = _KINDS.get(name.lower(), (None, ""))
    match = re.fullmatch(form, value, re.IGNORECASE) if cls else None
    if cls is None or match is None:
        raise refusal
    given: dict[str, Any] = {}
    for option in options:
        key, _, words = option.partition("=")
        if key not in _OPTIONS[name.lower()]:
            known = ", ".join(_OPTIONS[name.lower()]) or "none"
            raise UsageError(f"stop '{text}': cannot read '{option}'; options of {name} are: {known}.")
        if key in given:
            raise UsageError(f"stop '{text}' gives {key} of {name} twice: give it once.")
        try:
            given[key] = _option(key, words)
        except ValueError:
            raise UsageError(
                f"stop '{text}': cannot read '{option}'; write p=0.05, peek=5, most=64 or range=0..1."
            ) from None
    if match.groupdict().get("unit"):
        given["unit"] = "sd"
    try:
        number = (int if cls is Patience else float)(match["value"])
    except ValueError:  # more digits than Python converts
        raise refusal from None
    rule: StopRule = cls(number, **given)
    return rule


def _option(key: str, words: str) -> Any:
    """The value of an option. ValueError: it cannot be read."""
    if key in ("peek", "most"):
        return int(words)
    if key == "p":
        return float(words)
    low, dots, high = words.partition("..")
    if not dots:
        raise ValueError
    return (float(low or "-inf"), float(high or "inf"))


def _options(rule: Any, *names: str) -> str:
    """The options that are not at their default, as text that `parse` reads."""
    defaults = {f.name: f.default for f in fields(rule)}
    given = {name: getattr(rule, name) for name in names if getattr(rule, name) != defaults[name]}
    return "".join(f":{k}={_text(v)}" for k, v in given.items())


def _text(value: float | Range) -> str:
    """All digits, without ".0" after a whole number; an open end of a range is empty."""
    if isinstance(value, tuple):
        return "..".join("" if math.isinf(end) else _text(end) for end in value)
    return repr(int(value) if math.isfinite(value) and value == int(value) else float(value))


def _check_fit(rule: str, peek: int, most: int, range: Range) -> None:
    if peek < 2:
        raise UsageError(f"peek={peek} of {rule} must be at least 2: one score has no spread.")
    if most < peek:
        raise UsageError(f"most={most} of {rule} must be at least its peek={peek}.")
    if len(range) != 2 or not range[0] < range[1]:
        raise UsageError(f"range={range} of {rule} must be two increasing numbers, such as 0..1.")
