"""What a search result shows of itself, and searches side by side: every number against what the entries say."""

from __future__ import annotations

import io
import math
import re
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genscale
from genscale.errors import UsageError
from genscale.numerics.intervals import bootstrap
from genscale.report import html_table
from genscale.results.result import SearchResult
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.zero_order import ZeroOrder
from genscale.toy import analytic

MODEL = analytic.Mixture(torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]]), 0.05)
FIRST, SECOND = analytic.coordinate(0), analytic.coordinate(1)


def found(sampler: Any = None, runs: int = 1, **more: Any) -> SearchResult:
    given = {"held_out": SECOND, "budget": "80nfe", "keep": 3} | more
    return analytic.search(sampler or BestOfN(), MODEL, FIRST, runs=runs, **given)


def lines(axes: Any) -> dict[str, list[tuple[float, float]]]:
    """Points of every curve by its colour, which the legend names."""
    names = {
        h[0].get_color(): n
        for h, n in zip(*axes.get_legend_handles_labels(), strict=True)
        if hasattr(h, "lines")
    }
    drawn = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
    return {names[line.get_color()]: list(zip(*line.get_data(), strict=True)) for line in drawn}


def test_the_table_is_the_ranking() -> None:
    result = found()
    records = result.table()
    assert [r["candidate"] for r in records] == [e.candidate.id for e in result.ranking()]
    assert [r["coordinate_0"] for r in records] == sorted([r["coordinate_0"] for r in records], reverse=True)
    assert records[0]["coordinate_1 (held out)"] == result.best.held_out["coordinate_1"]
    assert {r["NFE"] for r in records} == {80}
    assert len(records) == 10


def test_a_notebook_shows_a_table_and_not_all_that_is_inside() -> None:
    result = found(budget="200nfe")
    shown = result._repr_html_()
    assert shown.count("<tr>") == 1 + 10
    assert "15 more candidates" in shown
    assert repr(result) == "SearchResult(1 prompt, 25 candidates, 200 NFE)"
    several = found(runs=3)._repr_html_()
    assert several.count("<tr>") == 1 + 3
    assert "run 2" in several


def test_the_curve_is_the_best_so_far() -> None:
    result = found(ZeroOrder())
    figure = result.plot()
    searched, held = figure.axes
    assert (searched.get_title(loc="left"), held.get_title(loc="left")) == (
        "coordinate_0",
        "coordinate_1 (held out)",
    )
    [points] = lines(searched).values()
    bests = [(p["nfe"], p["total"]) for p in result.curve()]
    assert np.array(points[: len(bests)]) == pytest.approx(np.array(bests))
    assert points[-1] == (80, pytest.approx(result.best.total))
    [level] = [line for line in searched.get_lines() if line.get_label() == "base"]
    assert level.get_ydata()[0] == pytest.approx(result.total(result.base()))
    [dots] = [line for line in searched.get_lines() if line.get_label() == "candidates"]
    assert len(dots.get_xdata()) == len(result.ranking())


def test_a_notebook_shows_the_figure_itself() -> None:
    data, size = found().plot()._repr_png_()
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        assert picture.width > size["width"] > 600  # finer than the page, for sharp screens


def test_the_sheet_shows_what_was_kept() -> None:
    result = found(runs=2)
    assert result.sheet(runners=2).height > result.sheet(runners=2).width / 2
    wide, narrow = result.sheet(runners=2), result.sheet(runners=0)
    assert wide.width > narrow.width
    picture = torch.from_numpy(np.array(wide)).flatten(0, 1) / 255
    red = torch.tensor(result.media(result.ranking()[:1])[0].getpixel((0, 0))).float() / 255
    assert int(((picture - red).abs().amax(1) < 0.005).sum()) > 200 * 200  # the best is on it, enlarged


def test_without_anything_finished_there_is_nothing_to_show() -> None:
    result = found(budget="7nfe")
    with pytest.raises(ValueError, match="nothing to show"):
        result.sheet()
    assert "0 candidates" in repr(result)
    assert "<table>" in result._repr_html_()


# ---------------------------------------------------------------- side by side


@pytest.fixture(scope="module")
def both() -> Any:
    results = {"best_of_n": found(runs=6), "zero_order": found(ZeroOrder(), runs=6)}
    return genscale.compare(results)


def test_means_and_paired_gains(both: Any) -> None:
    first, other = both.results.values()
    gains = [other.ranking(i)[0].total - first.ranking(i)[0].total for i in range(6)]
    row = both["zero_order"]
    assert row.searched.gain.mean == pytest.approx(statistics.fmean(gains))
    assert (row.searched.gain.low, row.searched.gain.high) == bootstrap(gains)
    half = (row.searched.gain.high - row.searched.gain.low) / 2
    assert half == pytest.approx(2.5706 * statistics.stdev(gains) / math.sqrt(6), rel=0.35)  # about Student's
    assert both["best_of_n"].searched.gain is None
    held = [e.held_out["coordinate_1"] for e in (other.ranking(i)[0] for i in range(6))]
    assert row.held_out["coordinate_1"].mean.mean == pytest.approx(statistics.fmean(held))
    base = [first.total(first.base(i)) for i in range(6)]
    assert both["base"].searched.mean.mean == pytest.approx(statistics.fmean(base))
    assert both["base"].nfe == 8
    assert [both[name].nfe for name in ("best_of_n", "zero_order")] == [80, 80]


def test_the_table_of_a_comparison(both: Any) -> None:
    records = both.table()
    assert [r["search"] for r in records] == ["base", "best_of_n", "zero_order"]
    assert re.fullmatch(r"0\.\d+ (± 0\.\d+|\(-?0\.\d+ to 0\.\d+\))", records[1]["coordinate_0 (searched)"])
    assert records[1]["gain in coordinate_0"] == ""
    assert records[2]["gain in coordinate_1"][0] in "+-"
    assert "95 % interval" in both._repr_html_()
    assert "zero_order" in repr(both)


def test_the_curves_of_a_comparison(both: Any) -> None:
    searched, _ = both.plot("title").axes
    drawn = lines(searched)
    assert set(drawn) == {"best_of_n", "zero_order"}
    for name, points in drawn.items():
        assert points[-1] == (80, pytest.approx(both[name].searched.mean.mean))


def test_outputs_of_pipelines_will_do() -> None:
    class Output:
        search = found(runs=2)

    shown = genscale.compare({"a": Output(), "b": found(ZeroOrder(), runs=2)})
    assert shown["a"].searched.mean.n == 2


def test_other_verifiers_compare_by_the_held_out_one() -> None:
    other = analytic.search(BestOfN(), MODEL, analytic.coordinate(2), held_out=SECOND, budget="80nfe")
    shown = genscale.compare({"a": found(), "b": other})
    assert shown["b"].searched is None
    assert shown["b"].held_out["coordinate_1"].gain is not None
    assert [axes.get_title(loc="left") for axes in shown.plot().axes] == ["coordinate_1 (held out)"]


def test_what_does_not_compare_is_refused() -> None:
    first = found()
    cases = [
        ({"a": first}, "at least two"),
        ({"a": first, "b": found(runs=2)}, "other prompts"),
        ({"a": first, "b": found(seed=1)}, "another seed"),
        (
            {"a": found(held_out=None), "b": analytic.search(BestOfN(2), MODEL, SECOND)},
            "the same one as held_out=",
        ),
    ]
    for results, told in cases:
        with pytest.raises(UsageError, match=told):
            genscale.compare(results)


def test_a_table_escapes_what_it_shows() -> None:
    shown = html_table.table([{"a<b": "<script>", "n": 1.23456}, {"n": None, "more": "x"}], "note & all")
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "1.235" in shown
    assert "note &amp; all" in shown
    assert shown.count("<th") == 1 + 3  # thead, and three columns
