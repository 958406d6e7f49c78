"""Rules of the choice among finished candidates: what the winner must satisfy, and when the model's own is kept.

They act where candidates are ranked. Samplers search as without them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genscale.engine.ensembles import ENSEMBLES, Column
from genscale.errors import UsageError
from genscale.plugins.limits import shown

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda score, bound: score <= bound,
    ">=": lambda score, bound: score >= bound,
    "<": lambda score, bound: score < bound,
    ">": lambda score, bound: score > bound,
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_REQUIRE = re.compile(rf"\s*(?P<name>.*?)\s*(?P<sign><=|>=|<|>)\s*(?P<bound>{_NUMBER})\s*")
_ABSTAIN = re.compile(rf"\s*(?P<size>{_NUMBER})\s*(?P<unit>sd)?\s*")


@dataclass(frozen=True)
class Requirement:
    """`verifier<number`, with <, <=, > or >=: what a verifier's raw score of the winner must be."""

    verifier: str
    sign: str
    bound: float

    @staticmethod
    def parse(text: Any) -> Requirement:
        """UsageError: it cannot be read."""
        match = _REQUIRE.fullmatch(text) if isinstance(text, str) else None
        if match is None or not match["name"]:
            raise UsageError(
                f"requirement {shown(text)} cannot be read: write VERIFIER<NUMBER, with <, <=, > or >=, such as "
                "'nsfw<0.1'."
            )
        return Requirement(match["name"], match["sign"], float(match["bound"]))

    def holds(self, score: float) -> bool:
        return _SIGNS[self.sign](score, self.bound)

    def __str__(self) -> str:
        return f"{self.verifier}{self.sign}{self.bound:g}"


@dataclass(frozen=True)
class Abstain:
    """Keep the model's own candidate unless another's total is above its own by more than this.

    size: 0 or more. in_noise: whether it counts in standard deviations of the noise of a total (`noise_of_total`). The
    difference of two scores has sqrt(2) times the noise of one.
    """

    size: float
    in_noise: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.size < math.inf:
            raise UsageError(f"abstain {self.size:g} must be 0 or more.")

    @staticmethod
    def of(given: Any) -> Abstain | None:
        """From None, a number, or text: "0.02", or "2sd". UsageError: it cannot be read."""
        if given is None or isinstance(given, Abstain):
            return given
        match = None if isinstance(given, bool) else _ABSTAIN.fullmatch(str(given))
        if match is None:
            raise UsageError(
                f"abstain {shown(given)} cannot be read: give a margin in units of the score, such as 0.02, or in "
                "standard deviations of the verifier's noise, such as 2sd."
            )
        return Abstain(float(match["size"]), match["unit"] is not None)

    def __str__(self) -> str:
        return f"{self.size:g}{'sd' if self.in_noise else ''}"


@dataclass(frozen=True)
class Selection:
    """The rules of one run."""

    requires: tuple[Requirement, ...] = ()
    abstain: Abstain | None = None

    @staticmethod
    def of(require: Any = None, abstain: Any = None) -> Selection:
        """require: None, a text, or several; each may hold several that are joined by commas."""
        several = isinstance(require, Sequence) and not isinstance(require, str)
        given = [] if require is None else list(require) if several else [require]
        texts = [part for text in given for part in (text.split(",") if isinstance(text, str) else [text])]
        return Selection(tuple(map(Requirement.parse, texts)), Abstain.of(abstain))

    def broken(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """The requirements that a candidate breaks. scores: by verifier, of all roles that score every candidate."""
        return tuple(str(r) for r in self.requires if not r.holds(scores[r.verifier]))

    def check(self, named: Mapping[str, Column], ensemble: str, judge: Sequence[Column]) -> None:
        """UsageError: they do not go with these verifiers. named: those that score every candidate. judge: those that
        pick the winner, joined by `ensemble`."""
        for requirement in self.requires:
            column = named.get(requirement.verifier)
            if column is None:
                known = ", ".join(named) or "none"
                raise UsageError(
                    f"'{requirement}' requires a score of '{requirement.verifier}', which scores no candidate here "
                    f"({known} do): name it as a verifier, with weight 0 if it should not steer, or as select."
                )
            if column.relative:
                raise UsageError(
                    f"'{requirement}' cannot be required: '{requirement.verifier}' compares candidates with each other."
                )
        if self.abstain is None:
            return
        if not judge:
            raise UsageError("abstain compares scores, and no verifier was given: give one, or leave it out.")
        if self.abstain.in_noise:
            noise_of_total(ensemble, judge)

    def margin(self, ensemble: str, judge: Sequence[Column]) -> float | None:
        """How much better than the model's own the winner must be; None: not at all."""
        if self.abstain is None:
            return None
        unit = noise_of_total(ensemble, judge) if self.abstain.in_noise else 1.0
        return self.abstain.size * unit


def noise_of_total(ensemble: str, columns: Sequence[Column]) -> float:
    """The sd of a total under changes that do not matter, from the noise of each verifier, which are taken to be
    independent: sqrt(sum_k (w_k noise_k / scale_k)^2), where scale_k is the sd of standardised scores and 1 of others.

    UsageError: the total is no sum of scores, or the noise of a verifier is not known.
    """
    if not ENSEMBLES[ensemble].linear:
        linear = ", ".join(name for name, kind in ENSEMBLES.items() if kind.linear)
        raise UsageError(
            f"the noise of a {ensemble} ensemble is not known: give abstain as a number, or use one of {linear}."
        )
    squares = 0.0
    for column in columns:
        if not column.weight:
            continue
        if column.noise is None:
            raise UsageError(
                "the noise of a verifier is not known here: calibrate it, or give abstain as a number in units of the "
                "score."
            )
        scale = 1.0 if ensemble == "weighted" else column.sd or 1.0
        squares += (column.weight * column.noise / scale) ** 2
    return math.sqrt(squares)
