"""What is drawn and said beside a search's curves: the curve of pure noise, and where a held-out score turns down."""

import io
import itertools
import math

import numpy as np
import pytest
from rich.console import Console

from genscale.cli.comparison_table import print_comparison
from genscale.numerics.turning_point import turn_of
from genscale.report import score_curves
from genscale.report.prompt_summary import NOISE, PromptSummary, ScoredCandidate, curve_panels
from genscale.results.comparison import ComparedRow, Comparison

NFE = 8
SCORES = (0.1, 0.7, 0.4, 0.9)


def summary(scores, judged, draws=True):
    """A search of candidates with these scores, NFE each; judged: held-out scores of those that have one."""
    finals = tuple(
        ScoredCandidate(n, n, score, {"clip": score}, held_out={} if verdict is None else {"judge": verdict},
                        nfe=NFE * (n + 1))
        for n, (score, verdict) in enumerate(zip(scores, judged, strict=True))
    )  # fmt: skip
    return PromptSummary("a star", "clip", finals, finals[0], ("judge",), NFE * len(finals), draws=draws)


def test_the_noise_curve_is_the_expected_best_of_the_same_scores_in_any_order():
    searched, held_out = curve_panels({"best": [summary(SCORES, (0.0, 1.0, None, 1.0))]})
    assert searched.noise.name == NOISE
    orders = [np.maximum.accumulate(order) for order in itertools.permutations(SCORES)]
    wanted = [(NFE * (n + 1), pytest.approx(value)) for n, value in enumerate(np.mean(orders, axis=0))]
    assert list(searched.noise.prompts[0]) == wanted
    assert {value for _, value in held_out.noise.prompts[0]} == {0.0}  # the pipeline's own, at every NFE


def test_candidates_that_depend_on_scores_have_no_noise_curve():
    for some in ([summary(SCORES, (0, 1, None, 1), draws=False)], [summary((0.1,), (1,))]):
        assert [panel.noise for panel in curve_panels({"best": some})] == [None, None]


def falling(prompts=8):
    """Searches whose leaders please the judge at first, and no more at the end."""
    return [summary((0.1, 0.2, 0.3, 0.4), (0.0, 1.0, float(i > 0), 0.0)) for i in range(prompts)]


def test_a_turn_is_that_of_the_leaders_at_each_nfe():
    searched, held_out = curve_panels({"best": falling()})
    assert searched.turns() == []
    [turn] = held_out.turns()
    values = turn_of([[0.0, 1.0, float(i > 0), 0.0] for i in range(8)])
    assert (turn.nfe, turn.earliest, turn.fall, turn.least) == (16, 16, values.fall, values.least)
    assert turn.turned
    assert "highest at 16 NFE" in turn.text()


def test_a_turn_is_drawn_and_one_that_is_not_is_not():
    def labels(panels):
        figure = score_curves.figure(panels, "")
        return [text.get_text() for legend in figure.legends for text in legend.get_texts()]

    steady = [summary((0.1, 0.2), (0.0, 1.0)) for _ in range(8)]
    assert any("turns down" in label for label in labels(curve_panels({"best": falling()})))
    assert not any("turns down" in label for label in labels(curve_panels({"best": steady})))
    assert NOISE in labels(curve_panels({"best": steady}))


def test_many_places_are_thinned_and_the_last_one_kept():
    rng = np.random.default_rng(0)
    points = [[(float(x), float(v)) for x, v in enumerate(rng.standard_normal(1000))] for _ in range(6)]
    found = score_curves.turn_in(score_curves.Curve("best", points), "judge")
    assert found.fall >= 0
    assert found.prompts == 6
    end = np.mean([curve[-1][1] for curve in points])
    best = max(np.mean([curve[k][1] for curve in points]) for k in range(1000))
    assert found.fall <= best - end + 1e-12


def test_a_comparison_says_which_entry_turned():
    panels = curve_panels({"best_of_n": falling()})
    turns = tuple(turn for panel in panels for turn in panel.turns())
    rows = tuple(ComparedRow.of(name, 32.0, 1.0, [None], None, ["judge"]) for name in ("base", "best_of_n"))
    found = Comparison("sampler", ("a",), None, None, 0, rows, turns=turns)
    page = io.StringIO()
    print_comparison(found, Console(file=page, width=200))
    assert "best_of_n: judge (held out) turns down" in page.getvalue()
    assert found.as_dict()["turns"][0]["turned"] is True
    assert math.isfinite(found.as_dict()["turns"][0]["least"])
