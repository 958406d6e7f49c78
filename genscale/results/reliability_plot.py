"""Reliability diagrams: how often candidates are right, against the probability that they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from genscale.numerics.intervals import LEVEL
from genscale.numerics.probability_curve import Array, Bin, auc, calibration_error, reliability
from genscale.report.figure_text import plain
from genscale.report.model_names import short_model_name
from genscale.report.palette import BLUE, FAINT, INK
from genscale.results.verifier_calibration import VerifierCalibration

MOST = 8  # panels: the last ones


def plot(found: VerifierCalibration, path: Path) -> None:
    """A panel for each level: the share of right ones in each tenth of probability, and the candidates in it.

    The probabilities are those of curves that did not see the candidate's prompt.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    table, right = found.table, found.table.right.numpy()
    columns = [*table.previews.numpy().T, table.finals.numpy()]
    levels = list(zip(found.levels, columns, strict=True))[-MOST:]
    across = min(4, len(levels))
    down = -(-len(levels) // across)
    figure = Figure(figsize=(2.7 * across + 0.4, 3.9 * down + 0.4), dpi=150, layout="constrained")
    grid = figure.add_gridspec(2 * down, across, height_ratios=[3, 1] * down)
    for n, (level, p) in enumerate(levels):
        row, column = divmod(n, across)
        axes = figure.add_subplot(grid[2 * row, column])
        below = figure.add_subplot(grid[2 * row + 1, column], sharex=axes)
        title = (
            "finished"
            if level.progress == 1
            else f"previews at {found.fraction(level.progress):.3g} of the run"
        )
        _panel(axes, below, p, right, title, first=column == 0)
    names = " + ".join(m.verifier for m in found.members)
    prompts, model = len(found.texts), short_model_name(str(found.about.get("model", "")))
    parts = [model, names, f"{len(right)} candidates of {prompts} prompts, each held out once"]
    title = plain(" · ".join(part for part in parts if part))
    figure.suptitle(title, fontsize=9, color=INK, x=0.01, ha="left", parse_math=False)
    figure.savefig(path, format="png")


def _panel(axes: Any, below: Any, p: Array, right: Array, title: str, first: bool) -> None:
    bins = reliability(p, right)
    x, y = [b.probability for b in bins], [b.right for b in bins]
    bars = np.array([_interval(b) for b in bins]).T
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=":")
    axes.errorbar(x, y, abs(bars - np.array(y)), color=BLUE, linestyle="", elinewidth=0.8)
    most = max(b.count for b in bins)
    axes.scatter(x, y, s=[6 + 50 * b.count / most for b in bins], color=BLUE, zorder=3)
    told = auc(p, right)
    area = "" if told is None else f", AUC {told:.3f}"
    axes.set_title(
        f"{title}\nECE {calibration_error(bins):.3f}{area}",
        fontsize=8,
        color=INK,
        loc="left",
        parse_math=False,
    )
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.tick_params(labelsize=7, labelbottom=False)
    below.hist(p, bins=10, range=(0, 1), color=BLUE, alpha=0.35)
    below.set_xlabel("P(right)", fontsize=8)
    below.tick_params(labelsize=7)
    for some in (axes, below):
        some.spines[["top", "right"]].set_visible(False)
    if first:
        axes.set_ylabel("share that is right", fontsize=8)
        below.set_ylabel("candidates", fontsize=8)


def _interval(found: Bin) -> tuple[float, float]:
    """Wilson's interval of the share of right ones."""
    told = stats.binomtest(round(found.right * found.count), found.count).proportion_ci(
        LEVEL, method="wilson"
    )
    return min(float(told.low), found.right), max(float(told.high), found.right)
