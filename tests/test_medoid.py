"""Embeddings that are scored by those of the other candidates, against two loops; the verifier medoid."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import genscale
from genscale.engine import embeddings
from genscale.engine.budget import Budget
from genscale.engine.entries import Entry
from genscale.engine.plan import plan
from genscale.engine.selection import Selection
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.media import Media
from genscale.samplers.best_of_n import BestOfN
from genscale.verifiers.clip import SHAPES_CLIP, Clip
from genscale.verifiers.medoid import Medoid
from tests.analytic import SAMPLERS, first_coordinate, parts_for, run
from tests.test_verifiers import FLOATS, smooth
from tests.test_video_verifiers import reference, saved


class Embeds:
    """Gives a row of numbers for each; `scores` are their similarities by two loops."""

    gives_embeddings = True
    name = "medoid"

    def __init__(self, spoil: Any = None) -> None:
        self.spoil = spoil

    def __call__(self, media: Any, prompts: Any) -> torch.Tensor:
        rows = media.pixels.flatten(1)[:, :3].double() + torch.tensor([0.3, 0, 0])
        return rows if self.spoil is None else self.spoil(rows)


def similarities(rows: list[list[float]]) -> list[float]:
    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
            sum(x * x for x in a) * sum(y * y for y in b)
        )

    n = len(rows)
    return [sum(cosine(a, rows[j]) for j in range(n) if j != i) / (n - 1) for i, a in enumerate(rows)]


def embedded(members: Any = None, **settings: Any) -> Any:
    roles = Roles(VerifierSet(members or (WeightedVerifier("medoid", Embeds()),)))
    return run(BestOfN(12), roles=roles, **settings).searches[0]


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_the_winner_is_the_medoid_of_brute_force(batch_size: int) -> None:
    twins = []
    for seed in range(3):
        made = embedded(seed=seed, batch_size=batch_size)
        rows = [e.vectors["medoid"].tolist() for e in made.finals]
        want = similarities(rows)
        assert made.totals(made.finals) == pytest.approx(want, abs=1e-6)
        assert made.best() is made.finals[want.index(max(want))]
        told = [scores["medoid"] for scores, _ in made.ranks.told(made.finals)]
        assert told == pytest.approx(want, abs=1e-6)
        wrong = max(made.finals, key=lambda e: e.scores["medoid"])  # a twin: the numbers are no scores
        twins.append(wrong is made.best())
    assert not all(twins)


def test_similarities_join_other_scores() -> None:
    members = (WeightedVerifier("medoid", Embeds()), WeightedVerifier("a", first_coordinate, 0.5))
    made = embedded(members)
    rows = [e.vectors["medoid"].tolist() for e in made.finals]
    want = [s + 0.5 * e.scores["a"] for s, e in zip(similarities(rows), made.finals, strict=True)]
    assert made.totals(made.finals) == pytest.approx(want, abs=1e-6)


def test_a_resumed_search_has_the_embeddings_and_asks_nothing(tmp_path: Path) -> None:
    first = embedded(folder=tmp_path)

    def refuse(rows: Any) -> Any:
        raise AssertionError("asked again")

    again = embedded((WeightedVerifier("medoid", Embeds(refuse)),), folder=tmp_path)
    assert again.totals(again.finals) == first.totals(first.finals)
    assert [e.candidate for e in again.ranking()] == [e.candidate for e in first.ranking()]


def test_embeddings_live_in_their_entries(tmp_path: Path) -> None:
    """After a restart the numbers stand for nothing until the entries are read."""
    made = embedded()
    record = made.best().as_dict() | {"seconds": 1.0}
    embeddings._latest.clear()
    want = made.totals(made.finals)
    number = made.best().scores["medoid"]
    copy = Entry.of_record(record)
    assert torch.equal(copy.vectors["medoid"], made.best().vectors["medoid"])
    assert made.totals([replace(e) for e in made.finals]) == want
    del made
    copy.remember()
    assert torch.equal(embeddings.vector_of(number), copy.vectors["medoid"])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda rows: rows[0], "it gives embeddings, one row of numbers for each"),
        (lambda rows: rows[:, :0], "it gives embeddings"),
        (lambda rows: rows[1:], "it gives embeddings"),
    ],
)
def test_what_is_no_embedding(spoil: Any, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        embedded((WeightedVerifier("medoid", Embeds(spoil)),))


def test_an_embedding_that_is_not_finite_drops_its_candidate() -> None:
    def spoil(rows: torch.Tensor) -> torch.Tensor:
        rows[0, 0] = math.nan
        return rows

    made = embedded((WeightedVerifier("medoid", Embeds(spoil)),), batch_size=4)
    assert len(made.dropped) == 3
    assert len(made.finals) == 9


def test_embeddings_cannot_be_held_out_or_required() -> None:
    panel = VerifierSet((WeightedVerifier("medoid", Embeds()),))
    with pytest.raises(UsageError, match="compares all candidates with each other, so it cannot be held out"):
        Roles(VerifierSet((WeightedVerifier("a", first_coordinate),)), held_out=panel)
    with pytest.raises(UsageError, match="'medoid>0' cannot be required"):
        Roles(panel, selection=Selection.of("medoid>0"))
    with pytest.raises(UsageError, match="needs scores that do not depend on the other candidates"):
        run(BestOfN(4), roles=Roles(panel), stop="patience:2")


def test_the_usual_beats_outliers_where_most_are_alike() -> None:
    """A majority near one direction, others anywhere: the medoid is of the majority; a random pick often is not."""
    hits = picks = 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        rows = torch.randn(15, 8, generator=generator, dtype=torch.float64)
        rows[:9] = torch.ones(8) + 0.3 * rows[:9]
        found = similarities(rows.tolist())
        hits += found.index(max(found)) < 9
        picks += int(torch.randint(15, (1,), generator=generator)) < 9
    assert hits == 200
    assert picks < 160


# ---------------------------------------------------------------- the verifier

IMAGES = smooth(6, 40, 48)


def test_the_bundled_embedding_is_that_of_shapes_clip() -> None:
    found = genscale.make_verifier("medoid")(Media(IMAGES), [""] * 6)
    assert torch.equal(found, Clip(str(SHAPES_CLIP), None, "transformers").embed(IMAGES))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("kind", ["dinov2", "resnet"])
def test_any_image_model_embeds_as_transformers_has_it(tmp_path: Path, kind: str) -> None:
    folder, model = saved(kind, tmp_path)
    found = Medoid(model=folder)(Media(IMAGES))
    torch.testing.assert_close(found, reference(kind, model, folder, IMAGES), atol=FLOATS, rtol=0)
    one_by_one = torch.cat([Medoid(model=folder, batch_size=1)(Media(IMAGES[i : i + 1])) for i in range(6)])
    torch.testing.assert_close(found, one_by_one, atol=1e-5, rtol=0)


def test_of_a_video_the_mean_of_its_frames_counts() -> None:
    judge = Medoid()
    videos = IMAGES.reshape(2, 3, *IMAGES.shape[1:])
    want = torch.stack([judge(Media(IMAGES[:3])).mean(0), judge(Media(IMAGES[3:])).mean(0)])
    torch.testing.assert_close(judge(Media(videos)), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": 0}, "batch_size 0 embeds nothing"),
        ({"backend": "nope"}, "backend 'nope' is unknown"),
        ({"dtype": "int77"}, "dtype 'int77' is unknown"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Medoid(**settings)


def test_a_model_that_is_not_there_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be loaded"):
        Medoid(model=str(tmp_path / "none")).prepare([""], torch.device("cpu"))


@pytest.mark.parametrize("name", ["beam", "evolution", "smc", "zero_order"])
def test_samplers_that_compare_take_embeddings_and_can_be_planned(name: str) -> None:
    roles = Roles(
        VerifierSet((WeightedVerifier("medoid", Embeds()), WeightedVerifier("a", first_coordinate)), "rank")
    )
    made = run(SAMPLERS[name], roles=roles, budget=Budget(nfe=120)).searches[0]
    rows = [e.vectors["medoid"].tolist() for e in made.finals]
    told = [scores["medoid"] for scores, _ in made.ranks.told(made.finals)]
    assert told == pytest.approx(similarities(rows) if len(rows) > 1 else [0.0], abs=1e-6)
    assert plan(SAMPLERS[name], parts_for(SAMPLERS[name]), Budget(nfe=120), roles, 1).nfe == made.spent


def test_embeddings_have_no_gradient() -> None:
    with pytest.raises(UsageError, match="'medoid' compares candidates with each other and has no gradient"):
        VerifierSet((WeightedVerifier("medoid", Embeds()),)).check_differentiable()
