"""The rules of the choice, ensembles and the Pareto front in what a run leaves: results, folders, copies, pictures."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import genscale
from genscale.report.prompt_summary import FOREIGN_BASE, PromptSummary, ScoredCandidate

pytestmark = pytest.mark.filterwarnings("ignore:.*both steers and reports")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return genscale.load_pipeline("shapes-flow")


def scaled(pipe: Any, verifier: Any, **settings: Any) -> Any:
    made = genscale.scale(pipe, "best_of_n", verifier, candidates=5, **settings)
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": torch.Generator().manual_seed(4)}
    return made(["a red star", "two blue squares"], **call).search


FIRST = ("medoid", "category", "impossible")
SAVED: dict[str, tuple[dict[str, Any], bool | None]] = {
    "medoid": ({"verifier": ["medoid", "compressibility"], "ensemble": "rank"}, False),
    "minimum": ({"verifier": ["shapes_clip", "compressibility"], "ensemble": "minimum"}, False),
    "category": (
        {
            "verifier": ["shapes_clip", "compressibility"],
            "ensemble": "category",
            "category_weights": {"counting": {"compressibility": 5.0}, "colour": {"compressibility": 0.0}},
        },
        False,
    ),
    "required": (
        {"verifier": ["shapes_clip", ("compressibility", 0)], "require": "compressibility>-1.4"},
        None,
    ),
    "impossible": (
        {"verifier": ["shapes_clip", ("compressibility", 0)], "require": "compressibility>9"},
        True,
    ),
    "abstaining": ({"verifier": "shapes_clip", "abstain": 9}, None),
}


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        pytest.param(*of, id=name, marks=() if name in FIRST else pytest.mark.slow)
        for name, of in SAVED.items()
    ],
)
def test_a_folder_ranks_as_its_search_did(
    pipe: Any, tmp_path: Path, settings: dict[str, Any], notes: bool | None
) -> None:
    made = scaled(pipe, **settings)
    made.save(tmp_path)
    read = genscale.load_result(tmp_path)
    for i in range(2):
        assert [f.candidate for f in read.ranking(i)] == [e.candidate for e in made.ranking(i)]
        assert [f.total for f in read.ranking(i)] == pytest.approx([made.total(e) for e in made.ranking(i)])
        assert [f.candidate for f in read.pareto(i)] == [e.candidate for e in made.pareto(i)]
        summary, saved = made.summary(i), read.summary(i)
        assert (summary.notes, summary.abstained) == (saved.notes, saved.abstained)
        assert notes is None or bool(summary.notes) is notes
        told = [c.search for c in summary.ranking], [c.search for c in saved.ranking]
        assert [dict(a) for a in told[0]] == [pytest.approx(dict(b)) for b in told[1]]
        record = read.record["prompts"][i]
        assert record.get("notes", []) == list(summary.notes)
        assert record.get("pareto") == (
            [e.candidate.id for e in made.pareto(i)] if len(summary.objectives) > 1 else None
        )


def test_categories_weigh_by_the_prompt(pipe: Any) -> None:
    """ "a red star" is of the colours, "two blue squares" of several kinds: the mean of counting and colour is 2.5."""
    made = scaled(pipe, **SAVED["category"][0])
    for i, weight in enumerate((0.0, 2.5)):
        columns = made.searches[i].roles.search.columns
        assert [c.weight for c in columns] == [1.0, weight]


def test_a_pickled_result_ranks_the_same(pipe: Any) -> None:
    made = scaled(pipe, ["medoid", "compressibility"], ensemble="standardised", abstain=0.1)
    copy = pickle.loads(pickle.dumps(made))
    assert [e.candidate for e in copy.ranking()] == [e.candidate for e in made.ranking()]
    assert copy.abstained() == made.abstained()


def test_the_pareto_front_is_that_of_two_loops(pipe: Any) -> None:
    made = scaled(pipe, ["shapes_clip", ("compressibility", -1.0)])
    points = [(e.scores["shapes_clip"], -e.scores["compressibility"]) for e in made.searches[0].finals]
    want = [
        e
        for e, p in zip(made.searches[0].finals, points, strict=True)
        if not any(all(b >= a for a, b in zip(p, q, strict=True)) and p != q for q in points)
    ]
    assert made.pareto() == want
    figure = made.pareto_plot()
    axes = figure.axes[0]
    assert axes.get_ylabel() == "compressibility (lower is better)"
    drawn = {tuple(xy) for xy in axes.collections[1].get_offsets().tolist()}
    assert drawn == {(e.scores["shapes_clip"], e.scores["compressibility"]) for e in want}
    with pytest.raises(ValueError, match="needs two scores"):
        scaled(pipe, "shapes_clip").pareto_plot()


def test_a_search_that_did_not_finish_its_base_says_that_it_cannot_keep_it() -> None:
    best, base = ScoredCandidate(0, 7, 1.0), ScoredCandidate(FOREIGN_BASE, 0, 2.0)
    for given in (None, base):
        [note] = PromptSummary("a star", "clip", (best,), given, margin=0.5).notes
        assert note.startswith("abstain had no effect")
    assert PromptSummary("a star", "clip", (best,), base).notes == ()
