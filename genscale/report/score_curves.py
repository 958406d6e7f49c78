"""Plots of best score so far against NFE: one curve per search, error bars over prompts; beside them what luck alone
gives, and where a held-out score turns down."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from genscale.numerics.intervals import Mean, is_binary
from genscale.numerics.turning_point import turn_of
from genscale.report.figure_text import plain, write_title
from genscale.report.palette import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette for colour-blind readers; markers and lines differ, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, LINES = "osD^vPX", ("-", "--", "-.", ":")
BARS = 8  # error bars on one curve
PLACES = 200  # of one curve, at most, at which its turning point is looked for
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """prompts: for each prompt its (NFE, value) at each new best, in order. steps: a value holds until the next."""

    name: str
    prompts: Sequence[Points]
    steps: bool = True

    def values(self) -> list[tuple[float, list[float]]]:
        """(NFE, the value of each prompt) wherever any of them changes, from where all of them have a value on."""
        places = sorted({x for points in self.prompts for x, _ in points})
        found = []
        for place in places:
            values = [_at(points, place) for points in self.prompts]
            known = [v for v in values if v is not None]
            if known and len(known) == len(values):
                found.append((place, known))
        return found

    def means(self) -> list[tuple[float, Mean]]:
        """(NFE, mean over prompts) at the same places."""
        return [(place, Mean.of(values)) for place, values in self.values()]


@dataclass(frozen=True)
class CurveTurn:
    """Where one curve of a held-out score is highest. nfe, earliest, latest: of the peak, and of its 95 % interval.

    The other fields are those of genscale.numerics.turning_point.Turn.
    """

    curve: str
    judge: str
    nfe: float
    earliest: float
    latest: float
    fall: float
    least: float
    prompts: int

    @property
    def turned(self) -> bool:
        return self.least > 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"turned": self.turned}

    def text(self) -> str:
        """In a sentence, of one that turned."""
        between = f"{self.earliest:.0f} to {self.latest:.0f}"
        return (
            f"{self.judge} (held out) turns down: highest at {self.nfe:.0f} NFE a prompt (95 % interval {between}), "
            f"and {self.fall:.3f} lower at the end (at least {self.least:.3f})"
        )


def turn_in(curve: Curve, judge: str) -> CurveTurn | None:
    """The turning point of a curve of held-out scores; None where its prompts or places are too few."""
    found = curve.values()
    found = (
        [found[k] for k in np.unique(np.linspace(0, len(found) - 1, PLACES).round().astype(int))]
        if found
        else []
    )
    turn = turn_of(np.array([values for _, values in found]).T.tolist())
    if turn is None:
        return None
    nfe, earliest, latest = (found[k][0] for k in (turn.peak, turn.earliest, turn.latest))
    return CurveTurn(curve.name, judge, nfe, earliest, latest, turn.fall, turn.least, turn.prompts)


@dataclass(frozen=True)
class CurvePanel:
    """One axes. dots: single scores behind the curves. base: (name, value) of a level to compare with.

    noise: what the first curve would be if its verifier were pure noise. judge: the held-out verifier of the scores;
    None where they are searched ones.
    """

    title: str
    curves: Sequence[Curve]
    base: tuple[str, float] | None = None
    dots: Points = ()
    noise: Curve | None = None
    judge: str | None = None

    def turns(self) -> list[CurveTurn]:
        """Where the curves of a held-out score are highest, as far as their prompts are enough to tell."""
        if self.judge is None:
            return []
        found = [turn_in(curve, self.judge) for curve in self.curves]
        return [turn for turn in found if turn is not None]


def draw(panels: Sequence[CurvePanel], title: str, path: Path | IO[bytes]) -> None:
    """Write a PNG, to a path or an open file: panels side by side, one legend below them."""
    figure(panels, title).savefig(path, format="png")


def figure(panels: Sequence[CurvePanel], title: str) -> Figure:
    """The same as a matplotlib figure, which notebooks display."""
    from genscale.report.notebook_figure import ShownFigure

    names = max(len(panel.curves) for panel in panels)
    whole = ShownFigure(
        figsize=(5.6 * len(panels) + 0.6, 4.6 + 0.22 * math.ceil(names / 2)), dpi=140, layout="constrained"
    )
    every = whole.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        _draw_panel(axes, panel)
    write_title(whole, title, 10, FAINT)
    handles, labels = {}, []
    for axes in every:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in handles:
                handles[label] = handle
                labels.append(label)
    columns = max(1, min(len(labels), 2 * len(panels)))
    legend = whole.legend(
        [handles[n] for n in labels],
        labels,
        frameon=False,
        fontsize=10,
        ncols=columns,
        loc="outside lower center",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return whole


def _draw_panel(axes: Any, panel: CurvePanel) -> None:
    if panel.dots:
        axes.plot(
            *zip(*panel.dots, strict=True), ".", color="#b9bdc5", markersize=5, label="candidates", zorder=1
        )
    if panel.base is not None:
        axes.axhline(panel.base[1], color=FAINT, linewidth=1, linestyle=(0, (1, 2)), label=panel.base[0])
    if panel.noise is not None and (found := panel.noise.means()):
        luck = [(x, mean.mean) for x, mean in found]
        axes.plot(
            *zip(*luck, strict=True), color="#8a8f99", linewidth=1.4, linestyle="--", label=panel.noise.name, zorder=2
        )  # fmt: skip
    span = max((x for curve in panel.curves for points in curve.prompts for x, _ in points), default=1.0)
    for turn in panel.turns():
        if turn.turned:
            colour = COLOURS[[curve.name for curve in panel.curves].index(turn.curve) % len(COLOURS)]
            axes.axvspan(turn.earliest, turn.latest, color=colour, alpha=0.12, linewidth=0, zorder=0)
            axes.axvline(
                turn.nfe,
                color=colour,
                linewidth=1,
                linestyle=":",
                label="turns down (95 % interval)",
                zorder=1,
            )
    for i, curve in enumerate(panel.curves):
        _draw_curve(axes, curve, i, len(panel.curves), span)
    axes.set_title(plain(panel.title), fontsize=11, color=INK, loc="left", parse_math=False)
    axes.set_xlabel("NFE a prompt", fontsize=10)
    axes.set_xlim(left=0)
    if is_binary([y for curve in panel.curves for points in curve.prompts for _, y in points] or [0.5]):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0.0), min(high, 1.0))  # proportions
    axes.tick_params(labelsize=9)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(color="#e7e9ed", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curve(axes: Any, curve: Curve, i: int, of: int, span: float) -> None:
    found = curve.values()
    if not found:
        return
    x, y = [x for x, _ in found], [sum(values) / len(values) for _, values in found]
    colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
    kind, line = "steps-post" if curve.steps else "default", LINES[i // len(COLOURS) % len(LINES)]
    shown = _spread(len(x), i, of)
    aside = [
        x[k] + (i - (of - 1) / 2) * 0.008 * span for k in shown
    ]  # shifted, so that curves ending at the same cost do not hide each other
    bounds = [_bounds(Mean.of(found[k][1])) for k in shown]
    bars_of = [*zip(*bounds, strict=True)] if any(map(any, bounds)) else None
    axes.plot(x, y, drawstyle=kind, linewidth=1.8, color=colour, linestyle=line, zorder=3)
    bars = axes.errorbar(
        aside, [y[k] for k in shown], yerr=bars_of, fmt=marker, color=colour,
        markersize=5.5, elinewidth=1, capsize=2.5, label=plain(curve.name), zorder=4,
    )  # fmt: skip
    bars[0].set_linestyle("none")
    bars[0].set_clip_on(False)  # a marker at the edge of the axes is shown whole


def _bounds(mean: Mean) -> tuple[float, float]:
    """How far the interval reaches below and above its mean; 0 where there is none."""
    if mean.mean is None or mean.low is None or mean.high is None:
        return 0.0, 0.0
    return mean.mean - mean.low, mean.high - mean.mean


def _spread(count: int, i: int, of: int) -> list[int]:
    """Indices of the points with markers: at most BARS and the last one, at different places for each curve."""
    if count <= BARS:
        return list(range(count))
    step = (count - 1) / BARS
    first = step * (i / max(of, 1))
    return sorted(
        {round(first + k * step) for k in range(BARS) if first + k * step < count - 1} | {count - 1}
    )


def _at(points: Points, place: float) -> float | None:
    k = bisect_right([x for x, _ in points], place)
    return points[k - 1][1] if k else None
