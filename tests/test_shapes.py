"""The shapes world and its judge."""

import dataclasses
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from genscale.toy.shapes import (
    CATEGORIES,
    COLOURS,
    GROUND,
    KINDS,
    PROMPTS,
    SIZE,
    Requirement,
    Scene,
    Shape,
    fresh_prompts,
    held_out,
    parse,
    related,
    render,
    sample_requirement,
    sample_scene,
)
from genscale.verifiers.shapes import Shapes, detect, fraction, satisfies


def drawn(n: int, seed: int) -> tuple[list[Requirement], list[Scene], list[Image.Image]]:
    """`n` requirements, the categories in turn, with a scene and an image of each."""
    rng = np.random.default_rng(seed)
    requirements = [sample_requirement(rng, CATEGORIES[i % len(CATEGORIES)]) for i in range(n)]
    scenes = [sample_scene(r, rng) for r in requirements]
    pictures = [
        Image.fromarray(pixels)
        for start in range(0, n, 250)
        for pixels in render(scenes[start : start + 250])
    ]
    return requirements, scenes, pictures


def picture(*shapes: Shape) -> Image.Image:
    return Image.fromarray(render([Scene(shapes)])[0])


def test_the_benchmark_is_balanced_distinct_and_fixed() -> None:
    assert Counter(p.category for p in PROMPTS) == dict.fromkeys(CATEGORIES, 30)
    assert len({p.text for p in PROMPTS}) == len(PROMPTS)
    assert all(parse(p.text) == p.requirement for p in PROMPTS)
    assert [p.text for p in PROMPTS[::70]] == [
        "a black circle",
        "a black square and a purple square",
        "a blue square right of a black star",
    ]


def test_fresh_prompts_follow_the_seed() -> None:
    assert fresh_prompts(1, 20) == fresh_prompts(1, 20) != fresh_prompts(2, 20)
    assert {p.category for p in fresh_prompts(3, 10, "counting")} == {"counting"}
    assert Counter(p.category for p in fresh_prompts(4, 25)) == dict.fromkeys(CATEGORIES, 5)
    with pytest.raises(ValueError, match="single, two"):
        fresh_prompts(0, 1, "texture")


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ("a red star", Requirement("single", (("red", "star"),))),
        ("A red  star.", Requirement("single", (("red", "star"),))),
        ("three green circles", Requirement("counting", (("green", "circle"),) * 3)),
        ("a red star and a blue ring", Requirement("two", (("red", "star"), ("blue", "ring")))),
        ("a red star and a blue star", Requirement("colours", (("red", "star"), ("blue", "star")))),
        (
            "a red star right of a blue ring",
            Requirement("position", (("red", "star"), ("blue", "ring")), "right of"),
        ),
    ],
)
def test_parse(text: str, requirement: Requirement) -> None:
    assert parse(text) == requirement


@pytest.mark.parametrize(
    "text",
    ["", "a dog", "red star", "five red stars", "a red star near a blue ring", "a red star and a red star"],
)
def test_other_captions_are_refused_with_the_words_of_the_world(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no caption of the shapes world.*circle.*purple.*left of"):
        parse(text)


def test_a_sixth_is_held_out_and_mirrored_captions_fall_together() -> None:
    rng = np.random.default_rng(0)
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for category in CATEGORIES[1:]:
        share = np.mean([held_out(sample_requirement(rng, category)) for _ in range(1500)])
        assert 0.10 < share < 0.22
    for _ in range(200):
        r = sample_requirement(rng, "position")
        mirrored = dataclasses.replace(r, nouns=r.nouns[::-1], relation=opposite[str(r.relation)])
        assert held_out(r) == held_out(mirrored)
    assert not any(held_out(p.requirement) for p in PROMPTS if p.category == "single")
    assert {p.category for p in PROMPTS if held_out(p.requirement)} == set(CATEGORIES[1:])


def test_pictures() -> None:
    pixels = render([Scene((Shape("square", "red", 20.0, 30.0, 10.0),)), Scene(())])
    assert pixels.shape == (2, SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[0, 30, 20]) == COLOURS["red"]
    assert tuple(pixels[0, 5, 5]) == GROUND
    assert (pixels[1] == GROUND).all()
    assert render([]).shape == (0, SIZE, SIZE, 3)


def test_scenes_keep_to_the_picture_and_to_the_relation() -> None:
    requirements, scenes, _ = drawn(200, seed=5)
    for requirement, scene in zip(requirements, scenes, strict=True):
        assert all(s.radius <= min(s.x, s.y, SIZE - s.x, SIZE - s.y) for s in scene.shapes)
        assert [s.noun for s in scene.shapes] == list(requirement.nouns)
        assert requirement.relation is None or related(*scene.shapes, requirement.relation)


def test_the_judge_agrees_with_what_was_drawn_and_refuses_what_was_not() -> None:
    requirements, scenes, pictures = drawn(2000, seed=11)
    texts = [r.text for r in requirements]
    right = Shapes()(pictures, texts)
    assert right.mean() >= 0.99
    moved = [(i, (i + 35) % 2000) for i in range(2000)]
    wrong = [(i, j) for i, j in moved if not satisfies(scenes[i].shapes, requirements[j])]
    assert len(wrong) > 1900
    assert Shapes()([pictures[i] for i, _ in wrong], [texts[j] for _, j in wrong]).mean() <= 0.01


def test_the_judge_finds_places_and_sizes() -> None:
    _, scenes, pictures = drawn(100, seed=12)
    for scene, image in zip(scenes, pictures, strict=True):
        found = detect(image)
        assert len(found) == len(scene.shapes)
        for shape in scene.shapes:
            near = min(found, key=lambda f: abs(f.x - shape.x) + abs(f.y - shape.y))
            assert near.noun == shape.noun
            assert max(abs(near.x - shape.x), abs(near.y - shape.y), abs(near.radius - shape.radius)) < 1.0


def test_the_judge_bears_soft_edges_specks_noise_and_size() -> None:
    requirements, _, pictures = drawn(300, seed=13)
    texts = [r.text for r in requirements]
    rng = np.random.default_rng(0)
    blurred = [p.filter(ImageFilter.GaussianBlur(0.8)) for p in pictures]
    noised = [
        Image.fromarray(np.clip(np.asarray(p) + rng.normal(0, 12, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8))
        for p in pictures
    ]
    large = [p.resize((256, 256), Image.Resampling.BICUBIC) for p in pictures]
    specked = [p.copy() for p in pictures]
    for p in specked:
        p.paste((60, 60, 60), (0, 0, 2, 2))
    for changed in (blurred, noised, large, specked):
        assert Shapes()(changed, texts).mean() > 0.97


def test_one_wrong_thing_is_wrong() -> None:
    star, ring = Shape("star", "red", 18, 20, 10), Shape("ring", "blue", 45, 40, 10)
    both = picture(star, ring)
    verdicts = {
        "a red star and a blue ring": 1,
        "a blue ring and a red star": 1,
        "a red star left of a blue ring": 1,
        "a red star above a blue ring": 1,
        "a red star right of a blue ring": 0,
        "a blue star and a red ring": 0,
        "a red star": 0,
        "two red stars": 0,
        "a red star and a blue circle": 0,
    }
    assert Shapes()([both] * len(verdicts), list(verdicts)).tolist() == list(verdicts.values())
    assert Shapes()([picture(star), picture()], ["two red stars", "a red star"]).tolist() == [0, 0]
    swapped = picture(dataclasses.replace(star, colour="blue"), dataclasses.replace(ring, colour="red"))
    assert Shapes()([swapped], ["a red star and a blue ring"]).item() == 0


def test_what_is_no_shape_of_the_world_is_said_so() -> None:
    half = np.asarray(picture(Shape("circle", "red", 32, 32, 12))).copy()
    half[:32][half[:32, :, 2] < 100] = COLOURS["blue"]
    assert [s.colour for s in detect(Image.fromarray(half))] == ["mixed"]
    bar = picture().copy()
    bar.paste(COLOURS["red"], (10, 30, 50, 36))
    assert [s.kind for s in detect(bar)] == ["blob"]


def test_the_fraction_is_graded() -> None:
    star, ring = Shape("star", "red", 18, 20, 10), Shape("ring", "blue", 45, 40, 10)
    wanted = parse("a red star left of a blue ring")
    assert fraction([star, ring], wanted) == 1
    assert fraction([star, dataclasses.replace(ring, colour="green")], wanted) == pytest.approx(0.5)
    assert fraction([star], wanted) == pytest.approx(1 / 3)
    assert fraction([], wanted) == 0
    assert fraction([star, star], parse("a red star")) == 0.5
    assert Shapes(graded=True)([picture(star)], ["two red stars"]).item() == 0.5
    requirements, scenes, _ = drawn(200, seed=14)
    for requirement in requirements:
        for scene in scenes[:20]:
            assert (fraction(scene.shapes, requirement) == 1) == satisfies(scene.shapes, requirement)


def test_the_verifier_keeps_its_promises() -> None:
    judge = Shapes()
    assert judge.name == "shapes"
    assert judge == Shapes(graded=False)
    score = judge([picture(Shape(KINDS[0], "red", 30, 30, 10))], ["a red circle"])
    assert score.shape == (1,)
    assert score.dtype == torch.float32
    with pytest.raises(ValueError, match="shapes world"):
        judge([picture()], ["a photo of a dog"])


def test_the_world_is_light_to_import() -> None:
    heavy = "{'diffusers', 'transformers', 'scipy', 'PIL'}"
    code = f"import sys, genscale.toy.shapes; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
