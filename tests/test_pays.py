"""The ceilings of benchmarks/pays.py by hand, and the page that is made of its results."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.pays import Pool, accepted_at
from benchmarks.pays_page import BEGIN, END, page, within
from tests.doc_blocks import ROOT

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("pays-*.json"))


@pytest.mark.parametrize(
    ("right", "cap", "wrong", "found"),
    [
        ([0, 0, 1, 1], 32, 8, (1.0, 24.0)),  # the third of four images
        ([0, 0, 1, 1], 16, 8, (0.0, 16.0)),  # the budget pays for two
        ([0, 0, 1, 1], 16, 2, (1.0, 12.0)),  # given up after their first call, for 2 NFE
        ([0, 0, 0, 1], 12, 2, (0.0, 12.0)),  # the last that is paid for is finished
        ([1], 8, 2, (1.0, 8.0)),
    ],
)
def test_what_a_search_that_knows_the_answer_spends(
    right: list[float], cap: int, wrong: int, found: tuple[float, float]
) -> None:
    assert accepted_at(torch.tensor(right), cap, 8, wrong) == found


def test_the_best_of_n_is_the_first_of_equals() -> None:
    pool = Pool(
        {"v": torch.tensor([[0.1, 0.9, 0.9], [0.5, 0.2, 0.1]])}, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0, 0]])
    )
    assert pool.best("v", 1) == [0.0, 1.0]
    assert pool.best("v", 3) == [1.0, 1.0]


def test_the_row_within_a_budget() -> None:
    rows = [{"name": f"accept_reject, {n} images", "nfe": [n, n + 2]} for n in (2, 4, 8)]
    rows.append({"name": "accept_reject, 6 images, pooled", "nfe": [6, 6]})
    assert within(rows, 6)["name"] == "accept_reject, 4 images"
    assert within(rows, 1)["name"] == "accept_reject, 2 images"


def test_the_page_shows_the_results() -> None:
    assert RESULTS
    text = (ROOT / "docs" / "explanation" / "what-pays.md").read_text()
    shown = text.split(BEGIN)[1].split(END)[0].strip()
    assert shown == page([json.loads(file.read_text()) for file in RESULTS])
