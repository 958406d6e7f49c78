"""The figures of docs/methods/: one a sampler that a file in benchmarks/results/ has, drawn from these files alone.

    python -m benchmarks.method_figures                          # docs/methods/figures/*.svg, the same bytes every time
    python -m benchmarks.method_figures --out /tmp/figures --png # images to look at

The method is blue and best_of_n grey. Bands and bars are 95 % intervals over prompts; gains are paired by prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.method_laws import BLUE, GREY, corrected, laws, legend, paper
from benchmarks.method_results import OLDER, PLAIN, Row, Table, drawn, law
from benchmarks.shapes import interval

FIGURES = Path(__file__).parents[1] / "docs" / "methods" / "figures"
STYLE = {
    "font.size": 8, "font.family": "sans-serif", "axes.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 7.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "lines.linewidth": 1.4,
    "lines.markersize": 3.5, "figure.facecolor": "white", "svg.fonttype": "none", "svg.hashsalt": "genscale",
}  # fmt: skip
HUES = (BLUE, "#64b5f6", "#0b3d91", "#26a69a")  # of variants of one method
MARKS = ("o", "s", "^", "D")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FIGURES)
    parser.add_argument("--png", action="store_true", help="images instead of SVG")
    options = parser.parse_args()
    for path in write(options.out, "png" if options.png else "svg"):
        print(path)


def write(out: Path, kind: str = "svg") -> list[Path]:
    """All figures; the files written."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in figures().items():
        with rc_context(STYLE):
            path = out / f"{name}.{kind}"
            draw().savefig(path, dpi=96, metadata={"Date": None} if kind == "svg" else {})
        if kind == "svg":  # matplotlib leaves blanks at the ends of lines
            path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
        written.append(path)
    return written


def figures() -> dict[str, Callable[[], Figure]]:
    """What there is to draw, by file name without ending."""
    from genscale.plugins.registry import found

    made: dict[str, Callable[[], Figure]] = {}
    for name in found("sampler"):
        if tables := drawn(name):
            made[name] = lambda name=name, tables=tables: scores(name, tables)
        if tasks := law(name):
            made[f"{name}-law"] = lambda name=name, tasks=tasks: laws(name, tasks)
    return made | {"fkc": corrected}


# ---------------------------------------------------------------- searched and held-out scores


def scores(sampler: str, tables: Sequence[Table]) -> Figure:
    """A row a model: the searched score, what it gains, and what the held-out judge says."""
    figure, grid = paper(len(tables), 3)
    variants = list(dict.fromkeys(_variant(r) for t in tables for r in t.rows if r.sampler == sampler))
    variants.sort(key=lambda label: label != sampler)  # as it comes is the bluest
    for axes, table in zip(grid, tables, strict=True):
        if sampler == PLAIN:
            _line(axes, table, table.rows, PLAIN, BLUE, "o")
        else:
            rivals = list({r.nfe: r for r in table.rows if r.sampler == PLAIN}.values())
            _line(axes, table, rivals, PLAIN, GREY, "o")
            for label in dict.fromkeys(r.label for r in table.rows if r.sampler == sampler):
                rows = [r for r in table.rows if r.label == label]
                k = variants.index(_variant(rows[0]))
                _line(axes, table, rows, label, HUES[k % len(HUES)], MARKS[k % len(MARKS)], shift=k)
        _name(axes, table)
    legend(figure)
    return figure


def _variant(row: Row) -> str:
    """Its label, whichever code it is of."""
    return row.label.removesuffix(OLDER)


def _line(
    axes: Any, table: Table, rows: Sequence[Row], label: str, colour: str, mark: str, shift: int = 0
) -> None:
    """One search in the three panels. Bars stand a little apart, so that they do not hide each other."""
    aside = 1.0 if colour == GREY else 1.05 * 1.06**shift
    style = {"color": colour, "marker": mark, "label": label, "elinewidth": 0.8, "capsize": 2}
    if label.endswith(OLDER):  # hollow
        style["markerfacecolor"] = "white"
    for axis, what in ((axes[0], "searched"), (axes[2], "judge")):
        found = [interval(getattr(r, what)) for r in rows]
        axis.errorbar([r.nfe * aside for r in rows], *zip(*found, strict=True), **style)
    gains = [(r, r.gains("searched")) for r in rows if r.rival is not None]
    if gains:
        x = [r.nfe * aside for r, _ in gains]
        axes[1].errorbar(x, *zip(*(g for _, g in gains if g), strict=True), **style)


def _name(axes: Any, table: Table) -> None:
    axes[1].axhline(0.0, color=GREY, linewidth=1.0)
    axes[0].set_title("searched score", loc="left")
    axes[1].set_title(f"its gain over {table.over}, paired", loc="left")
    axes[2].set_title("held-out judge", loc="left")
    axes[0].set_ylabel(table.model)
    ticks = sorted({r.budget for r in table.rows})
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xlabel("NFE a prompt")
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.set_xlim(min(ticks) * 0.8, max(ticks) * 1.4)


if __name__ == "__main__":
    main()
