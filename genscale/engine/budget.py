"""Limits of a search."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from numbers import Integral

from genscale.errors import UsageError

_FORMS = "480nfe, 60s, 32calls, target=0.35, or several joined by commas"
_PART = re.compile(
    r"(?:(?P<nfe>[\d_]+)nfe|(?P<verifier_calls>[\d_]+)calls?|(?P<seconds>[\d.]+(?:e[-+]?\d+)?)s"
    r"|(?P<minutes>[\d.]+)m(?:in)?|target=(?P<target>[-+\d.e]+))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Budget:
    """Limits of a search. The first that is reached ends it; None means no limit.

    nfe: denoiser evaluations for each prompt; with classifier-free guidance a step counts 2. Never exceeded.
    verifier_calls: images scored by search and select verifiers for each prompt (one image, one verifier, one call).
        Never exceeded.
    seconds: wall clock of the whole run, all prompts together. Nothing begins that is not expected to finish in time;
        the first candidate of each prompt is always finished.
    target: a search ends when its best total score is at least this.

    NFE and verifier calls are limited for each prompt, so that its result does not depend on the other prompts.
    """

    nfe: int | None = None
    seconds: float | None = None
    verifier_calls: int | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        for name in ("nfe", "seconds", "verifier_calls"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"a budget of {value} {name} allows nothing: give a number above 0.")
            if name != "seconds" and not (value is None or isinstance(value, Integral)):
                raise UsageError(f"a budget of {value} {name} is not a count: give a whole number.")
        for name in ("seconds", "target"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"a budget of {value} {name} is not a limit: give a finite number.")

    @staticmethod
    def parse(text: str) -> Budget:
        """Read "480nfe", "60s", "2min", "32calls", "target=0.35" or several joined by commas."""
        limits: dict[str, float] = {}
        joined = re.sub(
            r"\s*=\s*|(?<=\d)\s+(?=[a-z])", lambda gap: gap[0].strip(), text.strip(), flags=re.IGNORECASE
        )
        for part in re.split(r"[,\s]+", joined):
            match = _PART.fullmatch(part)
            if match is None:
                raise UsageError(f"budget '{text}': cannot read '{part}'; write {_FORMS}.")
            name, value = next((n, v) for n, v in match.groupdict().items() if v is not None)
            try:
                number = int(value) if name in ("nfe", "verifier_calls") else float(value)
            except ValueError:
                raise UsageError(f"budget '{text}': cannot read '{part}'; write {_FORMS}.") from None
            if name == "minutes":
                name, number = "seconds", 60 * number
            if name in limits:
                raise UsageError(f"budget '{text}' limits {name} twice: give it once.")
            limits[name] = number
        return Budget(**limits)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Text from which `parse` makes an equal budget."""
        units = {"nfe": "{}nfe", "seconds": "{}s", "verifier_calls": "{}calls", "target": "target={}"}
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        parts = [units[name].format(_short(value)) for name, value in limits.items() if value is not None]
        return ",".join(parts) or "none"


def _short(number: float) -> str:
    """All digits, without ".0" after a whole number."""
    return repr(int(number) if number == int(number) else float(number))
