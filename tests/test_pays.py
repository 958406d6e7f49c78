"""The ceilings of benchmarks/pays.py by hand, and the page that is made of its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.pays import Pool, accepted_at
from benchmarks.pays_page import page, within

ROOT = Path(__file__).parents[1]


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


def test_the_page_is_made_of_the_records() -> None:
    def row(name: str, right: list[float], nfe: float) -> dict[str, Any]:
        return {"name": name, "right": right, "nfe": [nfe] * 4, "accepted": [1.0, 0.0], "seconds": nfe / 140}

    rows = [
        row("base", [0, 0, 0, 1], 8), row("best_of_64, shapes_clip", [0, 0, 1, 1], 512),
        row("best_of_4, calibrated", [0, 0, 1, 1], 32), row("best_of_16, calibrated", [0, 1, 1, 1], 128),
        row("best_of_4, a perfect verifier", [0, 0, 1, 1], 32),
        row("best_of_16, a perfect verifier", [1, 1, 1, 1], 128),
        row("accept_reject, 2 images", [0, 0, 1, 1], 14), row("accept_reject, 8 images", [1, 1, 1, 1], 40),
    ]  # fmt: skip
    about = {"model": "shapes-flow", "steps": 4, "prompts": "hard", "n": 4, "reliability": {"ece": 0.01}}
    text = page([{**about, "seconds": {"best_of_64": 2.0, "accept_reject": 0.1}, "rows": rows}])
    assert (
        "| 0.250 | 0.500 for 512 NFE | 0.500 for 14 NFE (+0.000 ± 0.000) | 1.000 for 40 NFE (+0.500 ± 0.566) |"
        in text
    )
    assert "| 0.010 | 2 of 4 | 0.500 | 14 NFE | 1/37 | 1/20 |" in text  # 2 seconds against 14 / 140


def test_the_page_in_the_docs_is_that_of_the_results() -> None:
    text = (ROOT / "docs" / "explanation" / "what-pays.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "benchmarks" / "results").glob("pays-*.json"))
    assert page([json.loads(file.read_text()) for file in files]) in text
