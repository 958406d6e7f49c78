"""L-BFGS with an ask-and-tell interface: every call of `next` takes one evaluation and returns the next point.

The caller makes all evaluations, those of the line search included, so each of them can be charged to a budget.
Nocedal & Wright 2006, "Numerical Optimization": the two-loop recursion (algorithm 7.4) and a line search for the
strong Wolfe conditions (algorithms 3.5 and 3.6, cubic interpolation by eq. 3.59). Computed in float64; rows are
independent of each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

RISE, CURVATURE = 1e-4, 0.9  # c1 and c2 of the Wolfe conditions, as in D-Flow's torch.optim.LBFGS
STRETCH = 2.0  # factor by which the step grows while no maximum of the objective is bracketed
EDGE = 0.1  # smallest distance of an interpolated trial from either end of the bracket, as a fraction of its width
TRIALS = 8  # most trials of one line search, after which its best point is accepted


@dataclass
class Mark:
    """A point of a line search. t: step size. loss, slope: the loss there and its derivative with respect to t."""

    t: float
    loss: float
    slope: float


@dataclass
class Climber:
    """The state of one row.

    x, g: the accepted point [d] and the gradient of the loss there [d], the loss being minus the objective. low: the
    best trial of the current line search. high: the other end of the bracket; None before a maximum is bracketed.
    """

    first: float
    history: int
    searching: bool = True
    x: Tensor | None = None
    g: Tensor | None = None
    loss: float = 0.0
    direction: Tensor | None = None
    origin: Mark | None = None
    low: Mark | None = None
    high: Mark | None = None
    best: tuple[Tensor, Tensor, float] | None = None
    t: float = 0.0
    trials: int = 0
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (change of x, change of g)

    def next(self, x: Tensor, loss: float, g: Tensor) -> Tensor:
        """The next trial point [d]. x, loss, g: the last trial point and the loss and its gradient there."""
        if self.x is None or not self.searching:
            self._accept(x, g, loss)
        else:
            self._tried(x, g, loss)
        assert self.x is not None
        assert self.direction is not None
        return self.x + self.t * self.direction

    def _tried(self, x: Tensor, g: Tensor, loss: float) -> None:
        assert self.direction is not None
        assert self.origin is not None
        assert self.low is not None
        at, origin = Mark(self.t, loss, float(g @ self.direction)), self.origin
        self.trials += 1
        if self.best is None or loss < self.best[2]:
            self.best = x, g, loss
        worse = loss > origin.loss + RISE * at.t * origin.slope or (self.low.t > 0 and loss >= self.low.loss)
        if not worse and abs(at.slope) <= -CURVATURE * origin.slope:
            self._accept(x, g, loss)
        elif self.trials >= TRIALS:
            self._give_up()
        else:
            self._bracket(at, worse)

    def _bracket(self, at: Mark, worse: bool) -> None:
        """Choose the next step size: inside the bracket (low, high) of a maximum of the objective, else further out.
        worse: the trial `at` is too low for the first Wolfe condition, or not better than `low`."""
        assert self.low is not None
        if worse:
            self.high = at
        else:
            ahead = 1.0 if self.high is None else math.copysign(1.0, self.high.t - self.low.t)
            if at.slope * ahead >= 0:
                self.high = self.low
            self.low = at
        if self.high is None:
            self.t = STRETCH * at.t
            return
        self.t = _between(self.low, self.high)

    def _give_up(self) -> None:
        """After too many trials accept the best of them. If none improved, restart with steepest ascent."""
        if self.best is not None and self.origin is not None and self.best[2] < self.origin.loss:
            self._accept(*self.best)
            return
        assert self.x is not None
        assert self.g is not None
        self.pairs, self.first = [], self.first / 10
        self._accept(self.x, self.g, self.loss)

    def _accept(self, x: Tensor, g: Tensor, loss: float) -> None:
        """Accept a point, and begin a new line search there."""
        if self.x is not None and self.g is not None:
            moved, changed = x - self.x, g - self.g
            if float(moved @ changed) > 1e-10 * float(moved.norm() * changed.norm()):
                self.pairs = [*self.pairs, (moved, changed)][-self.history :]
        self.x, self.g, self.loss, self.best, self.trials = x, g, loss, None, 0
        self.direction = -self._scaled(g)
        slope = float(g @ self.direction)
        if slope >= 0 or not self.pairs:
            length = float(g.norm())
            self.pairs, self.direction = [], -g * (self.first * float(x.norm()) / length if length else 0.0)
            slope = float(g @ self.direction)
        self.t, self.high = 1.0, None
        self.origin = self.low = Mark(0.0, loss, slope)

    def _scaled(self, g: Tensor) -> Tensor:
        """The L-BFGS estimate of the inverse Hessian, from the stored pairs, times g [d]."""
        if not self.pairs:
            return g
        q, shares = g.clone(), []
        for moved, changed in reversed(self.pairs):
            share = (moved @ q) / (moved @ changed)
            q = q - share * changed
            shares.append(share)
        moved, changed = self.pairs[-1]
        q = q * (moved @ changed) / (changed @ changed)
        for (moved, changed), share in zip(self.pairs, reversed(shares), strict=True):
            q = q + (share - (changed @ q) / (moved @ changed)) * moved
        return q


def _between(low: Mark, high: Mark) -> float:
    """The minimum of the cubic that fits loss and slope at both ends of a bracket, kept away from the ends."""
    width = high.t - low.t
    mean = low.slope + high.slope - 3 * (high.loss - low.loss) / width
    square = mean**2 - low.slope * high.slope
    share = 0.5
    if square >= 0:
        root = math.copysign(math.sqrt(square), width)
        below = high.slope - low.slope + 2 * root
        share = 1 - (high.slope + root - mean) / below if below else 0.5
    return low.t + width * min(max(share, EDGE), 1 - EDGE)


class Lbfgs:
    """L-BFGS on n independent rows.

    first: length of the first trial step, as a fraction of the norm of the point. history: number of stored pairs.
    searching: whether to search along each direction; False if the caller does that and passes the best point it found.
    """

    def __init__(self, first: float, history: int, searching: bool = True) -> None:
        self.first, self.history, self.searching = first, history, searching
        self.climbers: list[Climber] = []

    def next(self, points: Tensor, objective: Tensor, gradient: Tensor) -> Tensor:
        if not self.climbers:
            self.climbers = [Climber(self.first, self.history, self.searching) for _ in range(len(points))]
        rows = points.flatten(1).double(), gradient.flatten(1).double()
        made = [
            c.next(x, -value, -g)
            for c, x, value, g in zip(self.climbers, rows[0], objective.tolist(), rows[1], strict=True)
        ]
        return torch.stack(made).view(points.shape).to(points)
