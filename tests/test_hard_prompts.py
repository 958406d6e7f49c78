"""Hard prompts: what they are, that every caption is read, and that the exact judge judges each kind exactly."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

import genscale
from genscale.toy.hard_prompts import COUNTS, DEVELOPMENT, REPORT, halves, kind
from genscale.toy.shapes import (
    COLOURS,
    KINDS,
    NUMBERS,
    PROMPTS,
    Scene,
    Shape,
    held_out,
    parse,
    render,
    sample_scene,
)
from genscale.verifiers.shapes import Shapes, fraction, satisfies

ALL = (*DEVELOPMENT, *REPORT)


def pictures(scenes: list[Scene]) -> list[Image.Image]:
    return [Image.fromarray(p) for i in range(0, len(scenes), 64) for p in render(scenes[i : i + 64])]


def truth(scene: Scene, text: str) -> bool:
    """Whether the scene is as the caption says, read word by word and compared object by object."""
    words = text.split()
    shapes = list(scene.shapes)
    if "no" in words:
        at = words.index("no")
        bad = words[at + 1 :]
        if any(s.kind == bad[-1] and (len(bad) == 1 or s.colour == bad[0]) for s in shapes):
            return False
        if at == 0:
            return len(shapes) > 0
        words = words[:at]
    groups: list[list[Shape]] = []
    wanted = 0
    for i, word in enumerate(words):
        if word.removesuffix("s") in KINDS:
            before = words[i - 2] if i > 1 else ""
            number = NUMBERS.get(before, 1)
            wanted += number
            found = [s for s in shapes if (s.colour, s.kind) == (words[i - 1], word.removesuffix("s"))]
            groups.append(found)
            same = sum(words[j - 1 : j + 1] == words[i - 1 : i + 1] for j in range(1, len(words)))
            if len(found) != number * same:
                return False
    if len(shapes) != wanted:
        return False
    ways = {"left": (1, 0), "right": (-1, 0), "above": (0, 1), "below": (0, -1)}
    for word, (x, y) in ways.items():
        if word in words:
            holds = [
                (b.x - a.x) * x + (b.y - a.y) * y >= 4 for a in groups[0] for b in groups[1] if a is not b
            ]
            return any(holds) if groups[0] == groups[1] else all(holds)
    return True


def test_the_halves_are_fixed_distinct_and_of_the_stated_kinds() -> None:
    assert halves(2614) == (DEVELOPMENT, REPORT) != halves(1)
    for half in (DEVELOPMENT, REPORT):
        assert len(half) == 240
        assert Counter(map(kind, half)) == COUNTS
    assert len({p.text for p in ALL} | {p.text for p in PROMPTS}) == 480 + len(PROMPTS)
    assert [p.text for p in REPORT[:4]] == [
        "a yellow square right of a purple square",
        "two red circles left of a blue star",
        "a green circle and a black star",
        "a purple ring no square",
    ]


def test_none_was_trained_and_every_caption_reads_back() -> None:
    assert all(held_out(p.requirement) for p in ALL)
    assert all(parse(p.text) == p.requirement for p in ALL)
    assert parse("a red star and no square") == parse("a red star, no square")
    assert parse("a red star no square").text == "a red star no square"
    assert (
        parse("a red star and a blue ring and a green circle").text
        == "red star and blue ring and green circle"
    )


@pytest.mark.parametrize("model", ["shapes-flow", "shapes-diffusion"])
def test_the_text_encoders_read_every_word(model: str) -> None:
    folder = f"{next(iter(genscale.__path__))}/models/{model}/tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt in ALL:
        tokens = tokenizer(prompt.text)["input_ids"]
        assert len(tokens) <= tokenizer.model_max_length
        assert tokens.count(tokenizer.eos_token_id) == 1  # an unknown sign would be another one
        assert tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == prompt.text.replace(
            " ", ""
        )


@pytest.mark.parametrize(
    "text",
    [
        *("no", "a star", "no squares", "a no square", "a red star no red star", "a red star no star"),
        *("red star and blue ring", "a red star and blue ring", "red star and red star and blue ring"),
        *(
            "two red stars above two red stars",
            "three red stars and two blue rings",
            "two red star and a blue ring",
        ),
        *("a red star left of no square", "a red star no square no ring", "a red star nosquare"),
    ],
)
def test_what_would_be_ambiguous_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no caption of the shapes world"):
        parse(text)


@pytest.mark.parametrize("name", COUNTS)
def test_the_judge_is_right_on_drawn_scenes(name: str) -> None:
    rng = np.random.default_rng(3)
    prompts = [p for p in REPORT if kind(p) == name]
    prompts = [prompts[i % len(prompts)] for i in range(60)]
    scenes = [sample_scene(p, rng) for p in prompts]
    texts = [p.text for p in prompts]
    assert all(truth(s, t) for s, t in zip(scenes, texts, strict=True))
    drawn = pictures(scenes)
    assert Shapes()(drawn, texts).mean() >= 0.98
    # each scene with one thing changed, and the next caption's: true or not as the scene says
    changed = [alter(scene, rng) for scene in scenes]
    cases = [*zip(changed, texts, strict=True), *zip(scenes, texts[1:] + texts[:1], strict=True)]
    said = [truth(s, t) for s, t in cases]
    found = Shapes()(pictures([s for s, _ in cases]), [t for _, t in cases]).bool().tolist()
    assert sum(a == b for a, b in zip(said, found, strict=True)) >= 0.98 * len(cases)
    assert 0.1 < np.mean(said[:60]) < 0.9 or name in ("three", "bare", "negation")  # alike would test nothing
    assert [satisfies(s.shapes, parse(t)) for s, t in cases] == said


def alter(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another colour, another kind, mirrored, turned upside down, or without its last object."""
    shapes, i = list(scene.shapes), int(rng.integers(len(scene.shapes)))
    way = int(rng.integers(5))
    if way == 0:
        shapes[i] = replace(shapes[i], colour=str(rng.choice(list(COLOURS))))
    elif way == 1:
        shapes[i] = replace(shapes[i], kind=str(rng.choice(KINDS)))
    elif way in (2, 3):
        shapes = [replace(s, x=64 - s.x) if way == 2 else replace(s, y=64 - s.y) for s in shapes]
    else:
        shapes = shapes[:-1]
    return Scene(tuple(shapes))


def test_a_judge_that_reads_any_pair_for_all_is_caught() -> None:
    """The twin: "two red stars left of a blue ring" with one star on each side."""
    ring = Shape("ring", "blue", 32, 32, 9)
    stars = [Shape("star", "red", 10, 12, 8.5), Shape("star", "red", 54, 52, 8.5)]
    wanted = parse("two red stars left of a blue ring")
    scene = Scene((*stars, ring))
    assert any(s.x + 4 <= ring.x for s in stars)
    assert not satisfies(scene.shapes, wanted)
    assert not truth(scene, wanted.text)
    assert fraction(scene.shapes, wanted) == 0.75
    assert Shapes()(pictures([scene]), [wanted.text]).item() == 0


def test_negation_allows_nothing_that_is_named() -> None:
    star, square = Shape("star", "red", 16, 20, 10), Shape("square", "blue", 45, 40, 10)
    both, one, none = pictures([Scene((star, square)), Scene((star,)), Scene(())])
    judge = Shapes()
    assert judge([both, one, none], ["a red star no square"] * 3).tolist() == [0, 1, 0]
    assert judge([both, one, none], ["no blue square"] * 3).tolist() == [0, 1, 0]
    assert judge([both, one, none], ["no red square"] * 3).tolist() == [1, 1, 0]
    assert Shapes(graded=True)([both], ["no blue square"]).item() == 0.5
