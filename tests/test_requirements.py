"""The rules about detected objects, on boxes made by hand, against a second computation with arrays."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genscale.errors import UsageError
from genscale.verifiers.detections import MOST, Box, Detection, directions, kept, overlap, relations
from genscale.verifiers.object_metadata import read_metadata, requirement_of
from genscale.verifiers.object_prompts import read_prompt
from genscale.verifiers.requirements import (
    COLOURS,
    Requirement,
    Rules,
    Unwanted,
    Wanted,
    soft_verdict,
    verdict,
)
from genscale.verifiers.singular import singular

HERE, NEAR, FAR, UNDER = (
    (0.0, 0.0, 10.0, 10.0),
    (8.0, 0.0, 18.0, 10.0),
    (50.0, 0.0, 60.0, 10.0),
    (0.0, 50.0, 10.0, 60.0),
)


def seen(noun: str, score: float = 0.95, box: Box = HERE, colour: str | None = None) -> Detection:
    shares = None if colour is None else {c: 0.73 if c == colour else 0.03 for c in COLOURS}
    return Detection(noun, score, box, shares)


# ---------------------------------------------------------------- boxes


def by_pixels(a: Box, b: Box) -> float:
    """Intersection over union of boxes with whole edges, by counting pixels."""
    masks = np.zeros((2, 20, 20), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, (a, b), strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    union = (masks[0] | masks[1]).sum()
    return float((masks[0] & masks[1]).sum() / union) if union else 0.0


def random_boxes(n: int, seed: int) -> list[Box]:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 12, (n, 2))
    high = low + rng.integers(1, 8, (n, 2))
    return [tuple(map(float, (*a, *b))) for a, b in zip(low, high, strict=True)]  # type: ignore[misc]


def test_overlaps_are_counted_pixels() -> None:
    boxes = random_boxes(30, 0)
    for a, b in itertools.product(boxes, boxes):
        assert overlap(a, b) == pytest.approx(by_pixels(a, b))
    assert overlap((3, 3, 3, 9), (3, 3, 3, 9)) == 0


def arrays_relations(a: Box, b: Box, margin: float) -> set[str]:
    """As GenEval's paper and code describe it, on arrays."""
    corners = np.array([a, b]).reshape(2, 2, 2)
    centres, sizes = corners.mean(1), corners[:, 1] - corners[:, 0]
    offset = centres[0] - centres[1]
    left = np.clip(np.abs(offset) - margin * sizes.sum(0), 0, None) * np.sign(offset)
    if np.abs(left).max() < 1e-3:
        return set()
    x, y = left / np.sqrt((offset**2).sum())
    told = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in told.items() if holds}


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_relations_are_those_of_a_second_computation(margin: float) -> None:
    boxes, counts = random_boxes(40, 1), set()
    for a, b in itertools.product(boxes, boxes):
        assert relations(a, b, margin) == arrays_relations(a, b, margin)
        counts.add(len(relations(a, b, margin)))
    assert {0, 1} <= counts
    assert margin > 0.1 or 2 in counts


def test_relations_by_hand() -> None:
    assert relations(HERE, FAR) == {"left of"}
    assert relations(FAR, HERE) == {"right of"}
    assert relations(HERE, UNDER) == {"above"}
    assert relations((50, 50, 60, 60), HERE) == {"right of", "below"}
    assert relations(HERE, (1, 0, 11, 10)) == set()  # 1 pixel apart, and 2 do not count
    assert relations(HERE, HERE) == set()
    mirrored = {"left of": "right of", "above": "below"}
    for a, b in itertools.product(random_boxes(10, 2), repeat=2):
        there, back = directions(a, b), directions(b, a)
        assert all(there[k] == pytest.approx(back[v]) for k, v in mirrored.items())


def test_the_surest_of_those_that_overlap_is_kept() -> None:
    found = [
        seen("cat", 0.5, HERE),
        seen("cat", 0.9, (1, 0, 11, 10)),
        seen("cat", 0.4, FAR),
        seen("dog", 0.2, HERE),
    ]
    assert [d.score for d in kept(found, 0.5)["cat"]] == [0.9, 0.4]
    assert [d.score for d in kept(found)["cat"]] == [0.9, 0.5, 0.4]
    assert [d.score for d in kept(found, 0.5)["dog"]] == [0.2]
    crowd = [seen("cat", n / 40, (10.0 * n, 0, 10.0 * n + 5, 5)) for n in range(30)]
    assert [d.score for d in kept(crowd)["cat"]] == [n / 40 for n in range(29, 29 - MOST, -1)]


# ---------------------------------------------------------------- verdicts

TWO = Requirement((Wanted("clock", 2),), (Unwanted("clock", 3),), "counting")
BOTH = Requirement((Wanted("cat"), Wanted("dog")), (), "two_object")
RED = Requirement((Wanted("car", 1, "red"),), (), "colors")
PLACED = Requirement((Wanted("cat"), Wanted("dog", 1, None, ("right of", 0))), (), "position")
ATTRIBUTES = Requirement((Wanted("car", 1, "red"), Wanted("bench", 1, "blue")), (), "color_attr")
NO_CAT = Requirement((Wanted("dog"),), (Unwanted("cat"),), "single_object")

CASES: list[tuple[Requirement, list[Detection], bool]] = [
    (TWO, [seen("clock"), seen("clock", box=FAR)], True),
    (TWO, [seen("clock")], False),
    (TWO, [seen("clock"), seen("clock", box=FAR), seen("clock", box=UNDER)], False),
    (
        TWO,
        [seen("clock"), seen("clock", box=FAR), seen("clock", 0.8, UNDER)],
        True,
    ),  # below .9 it is not counted
    (TWO, [seen("clock"), seen("clock", 0.9, FAR)], False),  # at the threshold is not above it
    (BOTH, [seen("cat", 0.31), seen("dog", 0.31)], True),
    (BOTH, [seen("cat", 0.31), seen("dog", 0.3)], False),
    (BOTH, [seen("cat")], False),
    (BOTH, [seen("cat"), seen("cat", box=FAR), seen("dog"), seen("bird")], True),
    (RED, [seen("car", colour="red")], True),
    (RED, [seen("car", colour="blue")], False),
    (RED, [seen("car", 0.9, colour="blue"), seen("car", 0.8, FAR, "red")], False),  # the surest one counts
    (RED, [seen("car")], False),
    (PLACED, [seen("cat"), seen("dog", box=FAR)], True),
    (PLACED, [seen("dog"), seen("cat", box=FAR)], False),
    (PLACED, [seen("dog"), seen("cat", box=HERE)], False),
    (PLACED, [seen("dog", box=FAR)], False),
    (PLACED, [seen("cat"), seen("dog", 0.9, UNDER), seen("dog", 0.5, FAR)], False),
    (ATTRIBUTES, [seen("car", colour="red"), seen("bench", colour="blue")], True),
    (ATTRIBUTES, [seen("car", colour="blue"), seen("bench", colour="red")], False),
    (NO_CAT, [seen("dog")], True),
    (NO_CAT, [seen("dog"), seen("cat", 0.31)], False),
    (NO_CAT, [seen("dog"), seen("cat", 0.29)], True),
]


@pytest.mark.parametrize(("requirement", "found", "right"), CASES)
def test_verdicts_by_hand(requirement: Requirement, found: list[Detection], right: bool) -> None:
    assert verdict(requirement, kept(found), Rules()) is right


@pytest.mark.parametrize(("requirement", "found", "right"), CASES)
def test_the_soft_verdict_becomes_the_verdict(
    requirement: Requirement, found: list[Detection], right: bool
) -> None:
    rules, objects = Rules(), kept(found)
    assert 0 <= soft_verdict(requirement, objects, rules) <= 1
    if any(d.score in (0.3, 0.9) for d in found):
        return  # at the threshold it is one half, however hard
    assert soft_verdict(requirement, objects, rules, 1e-4) == pytest.approx(float(right), abs=1e-6)


def many_groups() -> list[tuple[Requirement, dict[str, list[Detection]]]]:
    rng = np.random.default_rng(3)
    boxes, drawn = random_boxes(400, 4), []
    for n in range(200):
        found = [
            seen(
                str(rng.choice(["cat", "dog"])),
                float(rng.uniform(0.05, 0.99)),
                box,
                str(rng.choice(COLOURS[:2])),
            )
            for box in boxes[2 * n : 2 * n + 2] + boxes[n : n + int(rng.integers(4))]
        ]
        first = Wanted(
            "cat", int(rng.integers(1, 3)), str(rng.choice(COLOURS[:2])) if rng.integers(2) else None
        )
        place = (str(rng.choice(["left of", "above"])), 0) if rng.integers(2) else None
        spare = (Unwanted("cat", first.count + 1),) if rng.integers(2) else ()
        tag = "counting" if rng.integers(2) else "position"
        drawn.append((Requirement((first, Wanted("dog", 1, None, place)), spare, tag), kept(found)))
    return drawn


def second_verdict(wanted: Requirement, objects: dict[str, list[Detection]], least: float) -> bool:
    """The rules once more, by arrays of what each noun's objects are."""
    held: list[Any] = []
    for part in wanted.wanted:
        sure = np.array([d.score for d in objects.get(part.noun, [])]) > least
        some = [d for d, it in zip(objects.get(part.noun, []), sure, strict=True) if it]
        if sum(sure) < part.count:
            return False
        top = some[: part.count]
        if part.colour and {max(d.colours or {"": 0}, key=(d.colours or {"": 0}).get) for d in top} != {
            part.colour
        }:  # type: ignore[arg-type]
            return False
        if part.place:
            pairs = itertools.product(top, held[part.place[1]])
            if not all(part.place[0] in arrays_relations(a.box, b.box, 0.1) for a, b in pairs):
                return False
        held.append(top)
    return all(sum(d.score > least for d in objects.get(u.noun, [])) < u.count for u in wanted.unwanted)


def test_verdicts_are_those_of_a_second_computation() -> None:
    told = []
    for wanted, objects in many_groups():
        least = 0.9 if wanted.tag == "counting" else 0.3
        told.append(verdict(wanted, objects, Rules()))
        assert told[-1] == second_verdict(wanted, objects, least)
    assert 5 < sum(told) < 100


def test_soft_verdicts_are_the_product_that_is_documented() -> None:
    def odds(p: float) -> float:
        return p / (1 - p)

    for softness in (1.0, 0.5):
        for wanted, objects in many_groups():
            least, product = 0.9 if wanted.tag == "counting" else 0.3, 1.0
            tops = [objects.get(part.noun, [])[: part.count] for part in wanted.wanted]
            for part, top in zip(wanted.wanted, tops, strict=True):
                product *= len(top) == part.count
                for d in top:
                    ratio = (odds(d.score) / odds(least)) ** (1 / softness)
                    product *= ratio / (1 + ratio)
                    if part.colour:
                        powers = {c: p ** (1 / softness) for c, p in (d.colours or {}).items()}
                        product *= powers[part.colour] / sum(powers.values())
                if part.place:
                    for d, other in itertools.product(top, tops[part.place[1]]):
                        much = directions(d.box, other.box)[part.place[0]]
                        product /= 1 + math.exp(-(much - 0.5) / (0.1 * softness))
            for spare in wanted.unwanted:
                found = objects.get(spare.noun, [])
                if len(found) >= spare.count:
                    ratio = (odds(found[spare.count - 1].score) / odds(least)) ** (1 / softness)
                    product *= 1 / (1 + ratio)
            assert soft_verdict(wanted, objects, Rules(), softness) == pytest.approx(product, abs=1e-12)


def test_a_surer_object_is_better_and_a_surer_spare_one_worse() -> None:
    def soft(second: float, third: float) -> float:
        found = [seen("clock", 0.95), seen("clock", second, FAR), seen("clock", third, UNDER)]
        return soft_verdict(TWO, kept(found), Rules())

    assert soft(0.5, 0.1) < soft(0.7, 0.1) < soft(0.9, 0.1)
    assert soft(0.9, 0.1) > soft(0.9, 0.5) > soft(0.9, 0.8)
    assert soft_verdict(TWO, {"clock": [seen("clock", 1.0), seen("clock", 1.0)]}, Rules()) == 1.0


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a photo of a bench", Requirement((Wanted("bench"),), (), "single_object")),
        ("a photo of an orange", Requirement((Wanted("orange"),), (), "single_object")),
        ("An orange orange.", Requirement((Wanted("orange", 1, "orange"),), (), "colors")),
        ("two red clocks", Requirement((Wanted("clock", 2, "red"),), (Unwanted("clock", 3),), "counting")),
        ("photo of 3 wine glasses", Requirement((Wanted("wine glass", 3),), (Unwanted("wine glass", 4),), "counting")),
        ("a cat and a dog", Requirement((Wanted("cat"), Wanted("dog")), (), "two_object")),
        ("a cat next to a dog, a bird", Requirement((Wanted("cat"), Wanted("dog"), Wanted("bird")), (), "two_object")),
        (
            "a dog right of a teddy bear",
            Requirement((Wanted("teddy bear"), Wanted("dog", 1, None, ("right of", 0))), (), "position"),
        ),
        (
            "a red dog to the left of a kite",
            Requirement((Wanted("kite"), Wanted("dog", 1, "red", ("left of", 0))), (), "position"),
        ),
        (
            "a cup on top of a box beneath a lamp",
            Requirement(
                (Wanted("lamp"), Wanted("box", 1, None, ("below", 0)), Wanted("cup", 1, None, ("above", 1))),
                (),
                "position",
            ),
        ),
        ("an old black and white photo of a cow", Requirement((Wanted("cow"),), (), "single_object")),
        (
            "a red-colored car and a blue bench",
            Requirement((Wanted("car", 1, "red"), Wanted("bench", 1, "blue")), (), "color_attr"),
        ),
        ("a dog without cats", NO_CAT),
        ("a dog, no cats", NO_CAT),
        ("no cats", Requirement((), (Unwanted("cat"),), "single_object")),
    ],
)  # fmt: skip
def test_prompts_are_read(prompt: str, wanted: Requirement) -> None:
    assert read_prompt(prompt) == wanted


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a dog running in a park", "because of 'in'"),
        ("a dog left of a dog", "'dog' occurs twice"),
        ("", "a noun is missing"),
        ("a photo of two", "a noun is missing after 'two'"),
        ("a cat and", "a noun is missing"),
        ("40 dogs", "40 is not among the numbers"),
        ("0 dogs", "0 is not among the numbers"),
        ("a dog without a red leash", "must not be there, cannot be checked"),
        ("a cat left of no dog", "has no place"),
        ("a very old small brass alarm clock", "more than 4 words"),
        ("a dog; a cat", "because of 'dog;'"),
    ],
)
def test_other_prompts_are_refused(prompt: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_prompt(prompt)


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("clocks", "clock"), ("benches", "bench"), ("benchs", "bench"), ("buses", "bus"), ("glasses", "glass"),
        ("boxes", "box"), ("cherries", "cherry"), ("ties", "tie"), ("knives", "knife"), ("knifes", "knife"),
        ("people", "person"), ("horses", "horse"), ("vases", "vase"), ("potatoes", "potato"), ("sheep", "sheep"),
        ("toothbrushes", "toothbrush"), ("scissors", "scissors"), ("grass", "grass"), ("shoes", "shoe"),
    ],
)  # fmt: skip
def test_singulars(plural: str, one: str) -> None:
    assert singular(plural) == one


# ---------------------------------------------------------------- metadata

LINES = """
{"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}], "prompt": "a pair of clocks"}
{"tag": "position", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["right of", 0]}], "prompt": "dog, then cat"}
{"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "a car in red"}
"""  # noqa: E501


def test_metadata_in_the_form_of_geneval(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text(LINES)
    assert read_metadata(file) == {"a pair of clocks": TWO, "dog, then cat": PLACED, "a car in red": RED}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({}, "nothing is required"),
        ({"include": [{"class": "cat"}]}, "a class and a count"),
        ({"include": [{"class": "cat", "count": True}]}, "a class and a count"),
        ({"include": [{"class": "cat", "count": 1, "color": "mauve"}]}, "'mauve' is none of red"),
        (
            {"include": [{"class": "cat", "count": 1, "position": ["near", 0]}]},
            "a position is one of left of",
        ),
        ({"include": [{"class": "cat", "count": 1, "position": ["above", 0]}]}, "an earlier entry"),
        ({"include": [{"class": "cat", "count": 1}], "tag": 3}, "tag a text"),
        ({"include": {"class": "cat"}}, "are lists"),
    ],
)
def test_metadata_that_says_nothing_is_refused(record: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        requirement_of(record, "it")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds nothing"),
        ("[1]", "has no prompt"),
        ('{"prompt": "x", "include": [', "line 1 is not JSON"),
        ('{"prompt": "x", "include": [{"class": "a", "count": 1}]}\n{"prompt": "x", "include": [{"class": "b", "count": 1}]}', "two requirements"),  # noqa: E501
    ],
)  # fmt: skip
def test_metadata_files_that_cannot_be_read(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(UsageError, match=why):
        read_metadata(tmp_path / "m.jsonl")
