"""The tables of drafts in the page on performance are those of the results."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import draft_survey, drafts
from tests.doc_blocks import ROOT

PAGE = (ROOT / "docs" / "explanation" / "performance.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["draft_survey_flow.json", "draft_survey_diffusion.json"])
def test_the_page_has_the_table_of_the_survey(name: str) -> None:
    assert draft_survey.table(RESULTS / name).split("\n", 1)[1] in PAGE


def test_the_page_has_the_table_of_costs() -> None:
    assert drafts.table(RESULTS / "drafts-flow.jsonl").split("\n", 1)[1] in PAGE


def test_a_ratio_of_means_has_its_interval() -> None:
    below = np.array([1.0, 2.0, 3.0, 4.0])
    assert drafts.ratio_of_means(0.5 * below, below) == (0.5, pytest.approx(0))
    above = np.array([1.0, 0.0, 2.0, 1.0])
    ratio, half = drafts.ratio_of_means(above, np.ones(4))  # of equal ones: the interval of the mean
    assert (ratio, half) == (1.0, pytest.approx(1.96 * above.std(ddof=1) / 2))
