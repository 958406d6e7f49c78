"""What a sampler sees of its search: the budget's state and the request."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from genscale.protocol.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class SearchView:
    """The part of `protocol.interfaces.Process` that the search of a prompt decides.

    open_ended: see Process. scores_end: whether a target or a stop rule was given. results: how many the call returns.
    target: see Process.
    left, time: what the budget says; left() gives (nfe_left, calls_left), time() gives time_left.
    judges: verifier calls of scoring (a preview, a finished candidate).
    prompt: its text. verifiers: names of the search verifiers.
    probability, calibration: what is known of their totals.
    """

    open_ended: bool = False
    scores_end: bool = False
    results: int = 1
    target: float | None = None
    left: Callable[[], tuple[int | None, int | None]] = field(default=lambda: (None, None))
    time: Callable[[], float] = field(default=lambda: math.inf)
    judges: tuple[int, int] = (0, 0)
    prompt: str = ""
    verifiers: tuple[str, ...] = ()
    probability: bool = False
    calibration: Calibration | None = None

    @property
    def nfe_left(self) -> int | None:
        return self.left()[0]

    @property
    def calls_left(self) -> int | None:
        return self.left()[1]

    @property
    def time_left(self) -> float:
        return self.time()

    def calls(self, previews: int, finals: int) -> int:
        return self.judges[0] * previews + self.judges[1] * finals
