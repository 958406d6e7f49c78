"""Weights of verifiers by the category of a prompt."""

from __future__ import annotations

from typing import Any

import pytest

from genscale.engine.prompt_category import TRUST, categories, category, category_weights, checked
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError


def judge(media: Any, prompts: Any) -> list[float]:
    return [0.0] * len(prompts)


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a red star", ("color",)),
        ("three dogs", ("numeracy",)),
        ("a cat left of a dog", ("2d_spatial",)),
        ("a cat behind a dog", ("3d_spatial",)),
        ('a sign that says "OPEN"', ("text",)),
        ("the word love in neon", ("text",)),
        ("a castle, watercolor", ("style",)),
        ("a portrait in the style of cubism", ("style",)),
        ("two red stars", ("color", "numeracy")),
        ("a castle", ()),
        ("the dog's bowl and the cat's bed", ()),  # apostrophes are no quotes
    ],
)
def test_categories_are_found_by_words(prompt: str, found: tuple[str, ...]) -> None:
    assert categories(prompt) == found


NAMES = ["clip", "hps", "ocr"]
GIVEN = checked(
    {"counting": {"clip": 4}, "colour": {"clip": 2, "ocr": 0}, "text": {"ocr": 9}, "overall": {"ocr": 0.5}}
)


@pytest.mark.parametrize(
    ("prompt", "weights"),
    [
        ("a red star", [2, TRUST["color"][0], 0]),
        ("three dogs", [4, TRUST["numeracy"][0], 0.5]),
        ("two red stars", [3, TRUST["complex"][0], 0]),  # the mean of 4 and 2
        ('a red sign that says "OPEN"', [2, TRUST["color"][0], 4.5]),
        ("a castle", [1, TRUST["overall"][0], 0.5]),
    ],
)
def test_weights_are_those_of_the_categories(prompt: str, weights: list[float]) -> None:
    assert category_weights(prompt, NAMES, GIVEN) == weights


def test_several_categories_have_a_row_of_their_own() -> None:
    given = checked({"counting": {"clip": 4}, "several": {"clip": 7}})
    assert category_weights("two red stars", ["clip"], given) == [7]
    assert category_weights("two stars", ["clip"], given) == [4]


def test_the_published_table_is_used_as_it_is() -> None:
    for prompt in ("a red star", "three dogs", "two red stars", "a castle", "a cat behind a dog"):
        row = TRUST[category(prompt)]
        found = category_weights(prompt, ["hps(version=2.1)", "image_reward", "vqa_score", "mine"], {})
        assert found == [row[0], row[1], row[3], 1.0]


def test_a_set_of_verifiers_has_the_weights_of_its_prompt() -> None:
    members = tuple(WeightedVerifier(name, judge, weight) for name, weight in (("clip", 2.0), ("ocr", -1.0)))
    roles = Roles(VerifierSet(members, "category")).by_category({"counting": {"clip": 4}, "text": {"ocr": 9}})
    assert [c.weight for c in roles.for_prompt("three dogs").search.columns] == [8.0, -1.0]
    assert [c.weight for c in roles.for_prompt('"OPEN"').judge.columns] == [2.0, -9.0]
    assert [c.weight for c in roles.search.columns] == [2.0, -1.0]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "are no table"),
        ({"counts": {}}, r"category 'counts' is unknown \(did you mean 'counting'\?\)"),
        ({"counting": 3}, "category 'counting' holds 3"),
        ({"counting": {"vqa": 3}}, "weights verifier 'vqa', which the search does not have"),
        ({"counting": {"clip": "3"}}, "give a finite number"),
        ({"counting": {"clip": float("nan")}}, "give a finite number"),
        ({"counting": {"clip": True}}, "give a finite number"),
    ],
)
def test_tables_that_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        checked(given, ["clip"])


def test_weights_go_with_their_ensemble() -> None:
    with pytest.raises(UsageError, match="category weights go with ensemble='category'"):
        Roles(VerifierSet((WeightedVerifier("clip", judge),))).by_category({})


def test_a_prompt_whose_weights_are_all_0_is_refused() -> None:
    roles = Roles(VerifierSet((WeightedVerifier("clip", judge),), "category")).by_category(
        {"colour": {"clip": 0}}
    )
    with pytest.raises(UsageError, match="a category ensemble of weights 0 ranks nothing"):
        roles.for_prompt("a red star")
