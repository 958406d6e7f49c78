"""A calibration as a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from genscale.report.figure_text import plain
from genscale.report.model_names import short_model_name
from genscale.report.palette import BLUE, FAINT, GREEN, INK
from genscale.results.calibration import Calibration


def plot(found: Calibration, path: Path) -> None:
    """Plot mean rho with its interval, and the share of the top quarter that halving keeps, along the run."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    x = [level.fraction for level in found.levels]
    low, high, rho, kept = (_values(found, name) for name in ("low", "high", "rho", "kept"))
    axes.plot(x, rho, color=BLUE, marker="o", label="mean rank correlation of preview and final scores")
    if any(map(math.isfinite, low)):
        axes.fill_between(
            x, low, high, color=BLUE, alpha=0.18, linewidth=0, label="its 95 % interval over prompts"
        )
    axes.plot(
        x, kept, color=FAINT, marker=".", linestyle="--", linewidth=1,
        label="share of the final top quarter in the preview's top half (chance: 0.5)",
    )  # fmt: skip
    _mark(axes, found)
    lowest = min([0.0, *filter(math.isfinite, (*low, *rho))])
    axes.set(xlim=(0, 1), ylim=(lowest - 0.05, 1.08), xlabel="fraction of the run done")
    axes.set_title(plain(_title(found.about)), fontsize=9, color=INK, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.savefig(path, format="png")


def _values(found: Calibration, name: str) -> list[float]:
    """One number of every level; NaN, a gap in the plot, where there is none."""
    values = [getattr(level.agreement, name) for level in found.levels]
    return [math.nan if v is None else v for v in values]


def _mark(axes: Any, found: Calibration) -> None:
    """The threshold, and the part of the run where previews are trusted."""
    start, end = found.window()
    axes.axhline(found.threshold, color=FAINT, linewidth=0.8, linestyle=":")
    axes.annotate(
        f"threshold {found.threshold:g}", (0, found.threshold), xytext=(4, 3), textcoords="offset points",
        color=FAINT, fontsize=8,
    )  # fmt: skip
    if start < end:
        axes.axvspan(start, end, color=GREEN, alpha=0.07, linewidth=0)
        axes.axvline(start, color=GREEN, linewidth=1)
        axes.annotate(
            f"trusted from {start:.2g}", (start, 1.0), xytext=(4, 4), textcoords="offset points",
            color=GREEN, fontsize=8,
        )  # fmt: skip


def _title(about: Any) -> str:
    model = short_model_name(str(about.get("model", "")))
    parts = [model, ", ".join(about.get("verifiers", ()))]
    if "prompts" in about:
        parts.append(f"{len(about['prompts'])} prompts, {about['candidates']} candidates each")
    return " · ".join(part for part in parts if part)
