"""Limits on what a search may spend."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from genscale.errors import UsageError
from genscale.plugins.limits import shown

_FORMS = "480nfe, 60s, 32calls, target=0.35, p=0.9, 16images, or several joined by commas"
_COUNTS = ("nfe", "verifier_calls", "images")
_PART = re.compile(
    r"(?:(?P<nfe>[\d_]+)nfe|(?P<images>[\d_]+)(?:image|video)s?|(?:image|video)s?=(?P<many>[\d_]+)|(?P<verifier_calls>[\d_]+)calls?|(?P<seconds>[\d.]+(?:e[-+]?\d+)?)s"
    r"|(?P<minutes>[\d.]+)m(?:in)?|(?:target=)?p=(?P<probability>[-+\d.e]+)|target=(?P<target>[-+\d.e]+))",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True)
class Budget:
    """Limits of a search; whichever is reached first ends it. None means no limit.

    nfe: denoiser evaluations (NFE) for each prompt: one latent through the denoiser once, so a step with
        classifier-free guidance counts 2. Never exceeded, not by one.
    verifier_calls: scores by search and select verifiers for each prompt (one image scored by one
        verifier). Never exceeded.
    seconds: wall clock of the whole run, all prompts together. No work is started that is not expected to
        end in time; the first candidate is always finished.
    target: a search ends when its best total score is this or more. "p=0.9" sets probability.
    probability: a search ends when a finished candidate is right with this probability or more, in (0, 1); for
        verifiers that answer probabilities.
    images: the NFE that so many images (or videos) of the pipeline alone cost, for each prompt: the same compute for
        every sampler, whatever it spends it on. It becomes a limit of NFE as soon as the cost of one image is known.

    All but seconds are per prompt, so that a prompt's result does not depend on the other prompts.
    """

    nfe: int | None = None
    seconds: float | None = None
    verifier_calls: int | None = None
    target: float | None = None
    images: int | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.target, str):
            self._read_target(self.target)
        for name in (*_COUNTS, "seconds", "target", "probability"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
                raise UsageError(f"a budget of {shown(value)} {name} is no number: give one.")
        for name in (*_COUNTS, "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"a budget of {value} {name} allows nothing: give a number above 0.")
            if name != "seconds" and not (value is None or isinstance(value, Integral)):
                raise UsageError(f"a budget of {value} {name} is no count: give a whole number.")
        for name in ("seconds", "target"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"a budget of {value} {name} is no limit: give a finite number.")
        if self.probability is not None and not 0 < self.probability < 1:
            raise UsageError(f"p={self.probability:g} of a budget must be between 0 and 1, such as 0.9.")

    def _read_target(self, text: str) -> None:
        asked = Budget.parse(f"target={text}")
        if asked.probability is not None and self.probability is not None:
            raise UsageError("a budget gives a probability twice: say it once.")
        object.__setattr__(self, "target", asked.target)
        if asked.probability is not None:
            object.__setattr__(self, "probability", asked.probability)

    @staticmethod
    def of(budget: Any) -> Budget:
        """A budget from what a user gives: a Budget, text for `parse`, or None for no limit."""
        if isinstance(budget, Budget):
            return budget
        if budget is None:
            return Budget()
        return Budget.parse(str(budget))

    @staticmethod
    def parse(text: str) -> Budget:
        """Read "480nfe", "16images", "60s", "2min", "32calls", "target=0.35", "p=0.9", or several joined by commas."""
        limits: dict[str, float] = {}
        joined = re.sub(
            r"\s*=\s*|(?<=\d)\s+(?=[a-z])", lambda gap: gap[0].strip(), text.strip(), flags=re.IGNORECASE
        )
        for part in re.split(r"[,\s]+", joined):
            name, number = _limit(text, part)
            if name in limits:
                raise UsageError(f"budget '{text}' limits {name} twice: say it once.")
            limits[name] = number
        return Budget(**limits)  # type: ignore[arg-type]

    def resolved(self, nfe: int) -> Budget:
        """The budget with its limit of `images` turned into one of NFE; `images` itself is kept for display.

        nfe: of one image.
        """
        if self.images is None:
            return self
        allowed = self.images * nfe
        return replace(self, nfe=allowed if self.nfe is None else min(self.nfe, allowed))

    def __str__(self) -> str:
        """Text from which `parse` makes an equal budget."""
        units = {
            "nfe": "{}nfe",
            "seconds": "{}s",
            "verifier_calls": "{}calls",
            "target": "target={}",
            "images": "{}images",
            "probability": "p={}",
        }
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        parts = [units[name].format(_short(value)) for name, value in limits.items() if value is not None]
        return ",".join(parts) or "none"


def _limit(text: str, part: str) -> tuple[str, float]:
    """The name of a limit and its value."""
    match = _PART.fullmatch(part)
    if match is None and re.fullmatch(r"[\d_.]*\d[\d_.]*", part):
        raise UsageError(
            f"budget '{text}': cannot read '{part}' without its unit ({part}images: the compute of {part} images, "
            f"{part}nfe: denoiser evaluations, {part}s: seconds); write {_FORMS}."
        )
    if match is None:
        raise UsageError(f"budget '{text}': cannot read '{part}'; write {_FORMS}.")
    name, value = next((n, v) for n, v in match.groupdict().items() if v is not None)
    name = "images" if name == "many" else name
    try:
        number = int(value) if name in _COUNTS else float(value)
    except ValueError:
        raise UsageError(f"budget '{text}': cannot read '{part}'; write {_FORMS}.") from None
    return ("seconds", 60 * number) if name == "minutes" else (name, number)


def _short(number: float) -> str:
    """The number with all its digits, without ".0" after a whole number."""
    return repr(int(number) if number == int(number) else float(number))
