"""Pareto fronts: the candidates of a prompt by two scores each, with those that no other dominates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from genscale.report.figure_text import plain, write_title
from genscale.report.palette import FAINT, INK
from genscale.report.score_curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genscale.report.prompt_summary import PromptSummary, ScoredCandidate

PROMPTS = 4  # drawn in one figure, a row each
PAIRS = 6  # of scores, that is, those of four verifiers
_OTHER, _FRONT, _BASE = "#b9bdc5", COLOURS[0], COLOURS[1]


def draw(summaries: Sequence[PromptSummary], title: str, path: Path | IO[bytes]) -> None:
    """Write a PNG, to a path or an open file."""
    figure(summaries, title).savefig(path, format="png")


def figure(summaries: Sequence[PromptSummary], title: str) -> Figure:
    """A row for each of the first prompts, and a column for each pair of the scores that pick the winner.

    Two scores have their front as a line: of more, the points of the front of all scores are marked, which in one pair
    need not look like one. ValueError: there are fewer than two scores.
    """
    from genscale.report.notebook_figure import ShownFigure

    rows = [s for s in summaries if s.finals][:PROMPTS]
    names = max((list(s.objectives) for s in rows), key=len, default=[])
    pairs = list(combinations(names, 2))[:PAIRS]
    if not pairs:
        raise ValueError("a Pareto front needs two scores: there are fewer")
    whole = ShownFigure(
        figsize=(4.4 * len(pairs) + 0.4, 3.8 * len(rows) + 0.6), dpi=140, layout="constrained"
    )
    every = whole.subplots(len(rows), len(pairs), squeeze=False)
    for line, summary in zip(every, rows, strict=True):
        front = {c.place for c in summary.pareto()}
        for axes, pair in zip(line, pairs, strict=True):
            _draw(axes, summary, pair, front)
        line[0].set_title(plain(summary.prompt), fontsize=10, color=INK, loc="left", parse_math=False)
    write_title(whole, title, 10, FAINT)
    handles, labels = every[0][0].get_legend_handles_labels()
    whole.legend(handles, labels, frameon=False, fontsize=10, ncols=4, loc="outside lower center")
    return whole


def _draw(axes: Any, summary: PromptSummary, pair: tuple[str, str], front: set[int]) -> None:
    best = summary.best
    groups = [
        ("dominated", [c for c in summary.finals if c.place not in front], "o", _OTHER, 22),
        ("Pareto front", [c for c in summary.finals if c.place in front], "o", _FRONT, 34),
        ("base", [summary.base] if summary.base is not None and summary.base in summary.finals else [], "s", _BASE, 80),
        ("best", [best] if best is not None else [], "*", INK, 150),
    ]  # fmt: skip
    for name, some, marker, colour, size in groups:
        x, y = ([_score(c, score) for c in some] for score in pair)
        hollow = {"facecolors": "none", "edgecolors": colour} if marker != "o" else {"color": colour}
        axes.scatter(x, y, s=size, marker=marker, label=name, zorder=4 if marker == "o" else 5, **hollow)
    if set(summary.objectives) == set(pair):
        ends = sorted(tuple(_score(c, score) for score in pair) for c in groups[1][1])
        falls = summary.objectives[pair[0]] > 0
        axes.step(
            *zip(*ends, strict=True), where="pre" if falls else "post", color=_FRONT, linewidth=1.2, zorder=3
        )
    for score, name in zip(pair, ("x", "y"), strict=True):
        lower = "" if summary.objectives.get(score, 1) > 0 else " (lower is better)"
        getattr(axes, f"set_{name}label")(plain(score + lower), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e7e9ed", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _score(candidate: ScoredCandidate, verifier: str) -> float:
    return {**candidate.search, **candidate.select}[verifier]
