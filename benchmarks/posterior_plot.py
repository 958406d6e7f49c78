"""The image of `benchmarks/posterior.py`: distance to the true law against NFE, one column a bed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROWS = {"law": "a draw of a run: squared MMD", "one": "what a run holds: squared MMD"}
COLOURS = {
    "importance": "#555555", "best_of_n": "#c9a227", "fk_steering": "#4c78a8", "smc": "#2a9d8f",
    "dts (1, 0.5)": "#d1495b", "dts (2, 0.8)": "#8e5ea2",
}  # fmt: skip


def plot(reports: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    tasks = [task for report in reports for task in report["tasks"]]
    figure, axes = plt.subplots(len(ROWS), len(tasks), figsize=(4.2 * len(tasks), 6.8), squeeze=False)
    for column, task in enumerate(tasks):
        for row, measure in enumerate(ROWS):
            _draw(axes[row][column], task, measure)
        axes[0][column].set_title(task["name"])
        axes[-1][column].set_xlabel("NFE of a run")
    for row, label in enumerate(ROWS.values()):
        axes[row][0].set_ylabel(label)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(axis: Any, task: dict[str, Any], measure: str) -> None:
    for shift, (label, colour) in enumerate(COLOURS.items()):
        rows = [r for r in task["rows"] if r["search"] == label]
        if not rows:
            continue
        x = [r["nfe"] * 1.03 ** (shift - 2.5) for r in rows]  # a little apart, so that bars can be told
        y, half = zip(*(r["measures"][measure] for r in rows), strict=True)
        axis.errorbar(x, y, half, label=label, color=colour, marker="o", ms=3.5, lw=1.4, capsize=2)
    if measure == "law":
        for r in task["rows"]:
            if r["nfe"] is None:
                value = r["measures"][measure][0]
                axis.axhline(value, color="black", lw=0.8, ls=":")
                place = {"xycoords": ("axes fraction", "data"), "fontsize": 7, "va": "bottom"}
                axis.annotate(r["search"], (0.02, value), **place)
    axis.set_xscale("log")
    if measure == "law":  # unbiased, so it may fall below 0
        axis.set_yscale("symlog", linthresh=1e-3)
    else:
        axis.set_yscale("log")
    axis.grid(alpha=0.25)
