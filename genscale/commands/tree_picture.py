"""Draws the tree of a run: steps from left to right, one row per candidate, finished samples at the right end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genscale.report.figure_text import plain, write_line
from genscale.report.palette import BLUE, FAINT, GREEN, INK
from genscale.runs.lineage import Line, Lineage

WIDTH = 9.0  # inches; so are all heights
IMAGE, PLAIN, LOST = (
    0.62,
    0.19,
    0.09,
)  # a row with an image, of a finished sample, of one that was given up
TOP, BOTTOM, TALLEST = 0.75, 0.95, 60.0
LEGIBLE = 0.11  # rows below this height carry no text
PALE = "#d3dbe6"  # the lowest value; the highest is BLUE
GRAY = "#c9ccd2"


def draw(family: Lineage, title: str, path: Path) -> None:
    """Write a PNG."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    drawing = _TreeFigure(family)
    figure = Figure(figsize=(WIDTH, drawing.height), dpi=150)
    drawing.draw(figure, title)
    figure.savefig(path, format="png")


class _TreeFigure:
    """The layout. y counts inches downwards from the top of the axes, x counts steps."""

    def __init__(self, family: Lineage) -> None:
        self.family, self.lines = family, family.lines()
        shown, bare = _factors(self.lines)
        self.high = {c: _height(c) * (bare if c.image is None else shown) for c in self.lines}
        self.prints_values = PLAIN * bare >= LEGIBLE
        self.row: dict[Line, float] = {}
        y = 0.0
        for line in self.lines:
            self.row[line] = y + self.high[line] / 2
            y += self.high[line]
        self.rows = max(y, 0.5)
        self.height = self.rows + TOP + BOTTOM
        self.begin = _beginnings(family)
        self.left = min(self.begin.values(), default=0.0)
        totals = [line.total for line in self.lines if line.total is not None] or [0.0]
        self.low, self.spread = min(totals), max(totals) - min(totals) or 1.0

    def draw(self, figure: Any, title: str) -> None:
        from matplotlib.colors import LinearSegmentedColormap, Normalize

        axes = figure.add_axes((0.05, BOTTOM / self.height, 0.9, self.rows / self.height))
        span = self.family.steps - self.left
        axes.set(xlim=(self.left - 0.02 * span, self.family.steps + 0.31 * span), ylim=(self.rows, 0))
        self.norm = Normalize(self.low, self.low + self.spread)
        self.colours = LinearSegmentedColormap.from_list("values", [PALE, BLUE])
        self._lines(axes)
        for line in self.lines:
            self._end(axes, line, span)
        self._axis(axes)
        self._words(figure, title)

    def number(self, value: float) -> str:
        """The value with as many decimals as distinguish the scores, the same for all."""
        decimals = 2 - math.floor(math.log10(self.spread))
        return f"{value:.{min(max(decimals, 0), 9)}f}"

    def colour(self, value: float | None) -> Any:
        return GRAY if value is None else self.colours(self.norm(value))

    def _lines(self, axes: Any) -> None:
        """Draw every candidate from its start to its end, with a line up to where it left its parent."""
        from matplotlib.collections import LineCollection

        parts: dict[bool, list[tuple[Any, Any, float]]] = {False: [], True: []}
        marks = []
        parents = {c: line for line in self.lines for c in line.children}
        for line in self.lines:
            y, values = self.row[line], line.values()
            ends = [*(step for step, _ in values[1:]), line.end]
            for (step, value), end in zip(values, ends, strict=True):
                x = self.begin[line] if step == line.start else float(step)
                parts[False].append(([(x, y), (float(end), y)], self.colour(value), 1.3))
                if step != line.start:
                    marks.append((x, y, self.colour(value)))
                    self._value(axes, x, y, value)
            parent = parents.get(line)
            if parent is not None:
                x, top = self.begin[line], self.row[parent]
                corner = [(max(x, self.begin[parent]), top), (x, top), (x, y)]
                parts[line.origin == "renoised"].append((corner, self.colour(values[0][1]), 1.3))
        for dotted, found in parts.items():
            if found:
                found.sort(key=lambda part: part[1] != GRAY)  # unfinished ones first, below the others
                paths, colours, widths = zip(*found, strict=True)
                style = (0, (1, 1.2)) if dotted else "solid"
                axes.add_collection(
                    LineCollection(paths, colors=colours, linewidths=widths, linestyles=style)
                )
        axes.add_collection(LineCollection(self._winning_path(), colors=GREEN, linewidths=2.2, zorder=3))
        if marks:
            xs, ys, colours = zip(*marks, strict=True)
            axes.scatter(xs, ys, c=colours, s=14, zorder=2.5, linewidths=0)

    def _value(
        self, axes: Any, x: float, y: float, value: float | None, shift: tuple[float, float] = (-2, 1.5),
        side: str = "right",
    ) -> None:  # fmt: skip
        """A small number beside a point; shift: in typographic points."""
        if value is not None and self.prints_values:
            axes.annotate(
                self.number(value), (x, y), xytext=shift, textcoords="offset points", ha=side,
                fontsize=5.5, color=FAINT,
            )  # fmt: skip

    def _winning_path(self) -> list[list[tuple[float, float]]]:
        """The winner's line, and that of each ancestor up to where the next one left it."""
        by_id = {line.id: line for line in self.lines}
        path = [by_id[i] for i in self.family.best]
        if not path:
            return []
        found, until = [], float(path[0].end)
        for line, parent in zip(path, [*path[1:], None], strict=True):
            x, y = self.begin[line], self.row[line]
            found.append([(x, y), (until, y)])
            if parent is not None:
                found.append([(max(x, self.begin[parent]), self.row[parent]), (x, self.row[parent]), (x, y)])
            until = x
        return found

    def _end(self, axes: Any, line: Line, span: float) -> None:
        """The finished sample: its image or a mark, and its score."""
        y, won = self.row[line], bool(self.family.best) and line.id == self.family.best[0]
        if line.total is None:
            if not any(c.start >= line.end for c in line.children):
                axes.plot(line.end, y, marker="|", color=FAINT, markersize=3)
                self._value(axes, line.end, y, line.preview, (3, -2), "left")
            return
        colour = GREEN if won else self.colour(line.total)
        axes.plot(line.end, y, marker="o", color=colour, markersize=5 if won else 3.5, zorder=4)
        if self.high[line] < LEGIBLE and not won:
            return
        ink, weight = (GREEN, "bold") if won else (INK, "normal")
        x = self.family.steps + 0.09 * span
        axes.text(
            x,
            y,
            self.number(line.total),
            va="center_baseline",
            ha="right",
            fontsize=7.5,
            color=ink,
            weight=weight,
        )
        axes.text(
            x + 0.015 * span, y, f"#{line.id}" + (" best" if won else ""), va="center_baseline", fontsize=7.5,
            color=GREEN if won else FAINT,
        )  # fmt: skip
        if line.image is not None:
            self._thumbnail(axes, line, line.image, span, won)

    def _thumbnail(self, axes: Any, line: Line, file: Path, span: float, won: bool) -> None:
        from matplotlib.patches import Rectangle
        from PIL import Image

        high = self.high[line] - 0.06
        try:
            with Image.open(file) as image:
                small = image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return  # it was damaged since; the scores are drawn without it
        pixels = max(1, round(high * 150 * 2))  # twice what is shown: sharp when enlarged
        small.thumbnail((3 * pixels, pixels))
        inch = (1.33 * span) / (0.9 * WIDTH)  # steps an inch
        wide = min(high * small.width / small.height, 0.085 * span / inch) * inch
        high = wide / inch * small.height / small.width
        x, y = self.family.steps + 0.215 * span, self.row[line]
        box = (x, x + wide, y + high / 2, y - high / 2)
        axes.imshow(small, extent=box, aspect="auto", interpolation="nearest", zorder=4)
        frame = Rectangle((x, y - high / 2), wide, high, fill=False, color=GREEN if won else GRAY, zorder=5)
        frame.set_linewidth(1.8 if won else 0.6)
        axes.add_patch(frame)

    def _axis(self, axes: Any) -> None:
        """Ticks at the steps where a candidate starts or ends, thinned out where there are many."""
        steps = self.family.steps
        levels = sorted({0, steps, *(s for line in self.lines for s in (line.start, line.end))})
        shown = levels if len(levels) <= 12 else sorted({0, steps, *levels[:: -(-len(levels) // 10)]})
        for level in levels:
            axes.axvline(level, color=GRAY, linewidth=0.5, zorder=0, alpha=0.6)
        axes.set_xticks(shown, [str(s) for s in shown])
        axes.tick_params(axis="x", labelsize=8, color=GRAY, labelcolor=INK, length=3)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(GRAY)
        axes.set_xlim(axes.get_xlim())  # images set limits of their own
        axes.set_ylim(self.rows, 0)

    def _words(self, figure: Any, title: str) -> None:
        from matplotlib.cm import ScalarMappable

        def at(inches: float) -> float:
            return inches / self.height

        def write(
            x: float, inches: float, text: str, size: float = 8, colour: str = FAINT, **more: Any
        ) -> None:
            figure.text(
                x, at(inches), text, fontsize=size, color=colour, va="center", parse_math=False, **more
            )

        write_line(figure, (0.05, at(self.height - 0.28)), self.family.prompt, 11, INK, width=0.9)
        write(0.05, self.height - 0.52, plain(f"{title} · {_counts(self.lines)}"))
        before = "left of 0: generations of initial noise" if self.left < 0 else "left: noise"
        write(0.05, 0.42, f"step ({before}, right: clean)")
        if any(line.origin == "renoised" for line in self.lines):
            write(0.05, 0.22, "dotted: noise added again")
        lost = any(line.total is None and line.preview is not None for line in self.lines)
        told = "score; of a branch, the mean of what was finished below it"
        write(0.95, 0.62, told + ("; of an unfinished one, its last preview" if lost else ""), ha="right")
        bar = figure.colorbar(
            ScalarMappable(self.norm, self.colours), cax=figure.add_axes((0.62, at(0.42), 0.33, at(0.1))),
            orientation="horizontal",
        )  # fmt: skip
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, color=GRAY, labelcolor=FAINT, length=2)


def _height(line: Line) -> float:
    """Height of a row in inches, before shrinking."""
    if line.image is not None:
        return IMAGE
    return LOST if line.total is None else PLAIN


def _factors(lines: Sequence[Line]) -> tuple[float, float]:
    """By how much rows with and without an image shrink where there are many: those without come first."""
    height = TALLEST - TOP - BOTTOM
    images = sum(_height(c) for c in lines if c.image is not None)
    others = sum(_height(c) for c in lines if c.image is None)
    spare = max(height - images, height / 4)
    return min(1.0, height / max(images, height)), min(1.0, spare / max(others, spare))


def _beginnings(family: Lineage) -> dict[Line, float]:
    """x where each line starts. Children that leave their parent at its start (moves of the initial noise) would
    overlap: their generations are drawn side by side, left of the first step."""
    generation: dict[Line, int] = {}
    for root in family.roots:
        generation[root] = 0
        for line in root.lines():
            for child in line.children:
                alike = child.start == line.start == 0
                generation[child] = generation[line] + 1 if alike else 0
    last = max(generation.values(), default=0)
    apart = min(0.06 * family.steps, 0.5 * family.steps / max(last, 1))
    return {
        line: float(line.start) if line.start or not last else -(last - n) * apart
        for line, n in generation.items()
    }


def _counts(lines: Sequence[Line]) -> str:
    finished = sum(line.total is not None for line in lines)
    return f"{finished} finished of {len(lines)} candidates"
