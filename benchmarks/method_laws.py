"""Figures of methods that promise a law and not only a good image: how far from it they are, against NFE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks.method_results import PLAIN, correctors, sampler_of

GREY, DARK, BLUE, LIGHT = "#8a8a8a", "#4a4a4a", "#1565c0", "#64b5f6"
WIDTH = 7.3  # inches of 96 pixels: 700 pixels


def paper(rows: int, columns: int, height: float = 2.05) -> tuple[Figure, Any]:
    """A figure of so many panels with room for a legend below. Margins are in inches; nothing is measured."""
    high = height * rows + 0.45
    figure = Figure(figsize=(WIDTH, high))
    figure.subplots_adjust(
        left=0.66 / WIDTH, right=1 - 0.06 / WIDTH, top=1 - 0.24 / high, bottom=0.82 / high,
        wspace=0.36, hspace=0.62 / (height - 0.62),
    )  # fmt: skip
    return figure, figure.subplots(rows, columns, squeeze=False)


def legend(figure: Figure, columns: int = 4) -> None:
    """Of all lines, each once, at the foot."""
    lines = dict[str, Any]()
    for axis in figure.axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            lines.setdefault(name, handle)
    names = list(lines)
    figure.legend(
        list(lines.values()), names, loc="lower center", ncols=min(len(names), columns), frameon=False
    )


def laws(sampler: str, tasks: Sequence[dict[str, Any]]) -> Figure:
    """A panel a bed: squared MMD of what a run holds to the true law."""
    figure, (axes,) = paper(1, len(tasks), height=2.3)
    for axis, task in zip(axes, tasks, strict=True):
        labels = list(dict.fromkeys(r["search"] for r in task["rows"] if sampler_of(r["search"]) == sampler))
        lines = [(PLAIN, GREY, "-", "o")]
        if sampler != "importance":
            lines.append(("importance", DARK, "--", "s"))
        lines += [(label, colour, "-", "o") for label, colour in zip(labels, (BLUE, LIGHT), strict=False)]
        for k, (label, colour, dash, mark) in enumerate(lines):
            rows = [r for r in task["rows"] if r["search"] == label]
            x = [r["nfe"] * 1.04 ** (k - 1) for r in rows]
            y, half = zip(*(r["measures"]["one"] for r in rows), strict=True)
            axis.errorbar(
                x, y, half, label=label, color=colour, linestyle=dash, marker=mark, elinewidth=0.8, capsize=2
            )
        axis.set(xscale="log", xlabel="NFE of a run")
        _decades(axis)
        axis.set_title(task["name"], loc="left")
    axes[0].set_ylabel("squared MMD of a run")
    legend(figure)
    return figure


def corrected() -> Figure:
    """fkc: distance to the exact product for every mix, corrected and as it is; and where weights collapse."""
    report = correctors()
    figure, grid = paper(2, 3)
    axes = grid.ravel()
    for axis, row in zip(axes, report["law"], strict=False):
        churns = sorted({float(key.split()[1].rstrip(",")) for key in row if key.startswith("churn")})
        for kind, colour in (("as it is", GREY), ("corrected", BLUE)):
            found = [row[f"churn {churn}, {kind}"] for churn in churns]
            bars = [1.96 * f["error"] for f in found]
            label = "the mix as it is" if kind == "as it is" else "fkc"
            axis.errorbar(
                churns, [f["mean"] for f in found], bars, label=label, color=colour, marker="o", capsize=2
            )
        exact = row["exact draws"]["mean"]
        axis.axhline(exact, color="black", linestyle=":", linewidth=1, label="exact draws")
        axis.set(xlabel="churn", xticks=churns)
        _decades(axis)
        axis.set_title(row["mix"], loc="left")
    for axis in (axes[0], axes[3]):
        axis.set_ylabel("Wasserstein-1 to the law")
    _collapse(axes[5], report["collapse"])
    legend(figure)
    return figure


def _collapse(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Effective sample size of exact weights against the dimension."""
    for scale, dash in zip(sorted({r["scale"] for r in rows}), ("-", "--", ":"), strict=True):
        mine = [r for r in rows if r["scale"] == scale]
        share = [r["exact"]["ess_share"]["mean"] for r in mine]
        d = [r["d"] for r in mine]
        axis.plot(d, share, color=BLUE, linestyle=dash, marker="o")
        at = {1.1: 3, 1.4: 2, 2.5: 1}.get(scale, 0)
        axis.annotate(f"scale {scale:g}", (d[at], share[at]), (4, 4), textcoords="offset points")
    axis.set(xscale="log", xlabel="independent coordinates", ylim=(0, 1.15))
    axis.set_title("ESS / N of exact weights", loc="left")


def _decades(axis: Any) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.yaxis.set_minor_locator(LogLocator(subs=()))
