"""The world of moving shapes and its exact judge: right videos score 1, and each way of being wrong does not."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from genscale.errors import UsageError
from genscale.toy.moving_shapes import (
    DIRECTIONS,
    EDGE,
    FRAMES,
    KINDS,
    PROMPTS,
    SIZE,
    Motion,
    Prompt,
    Scene,
    fresh_prompts,
    parse,
    render,
    sample_scene,
)
from genscale.toy.shapes import COLOURS, GROUND
from genscale.verifiers.moving_shapes import MovingShapes, detect

Clip = np.ndarray


def drawn(n: int, seed: int) -> tuple[list[Prompt], list[Scene], Clip]:
    rng = np.random.default_rng(seed)
    prompts = [*fresh_prompts(seed, 24, "one"), *fresh_prompts(seed, n - 24, "two")]
    scenes = [sample_scene(p, rng) for p in prompts]
    return prompts, scenes, render(scenes)


PROMPT_60, SCENE_60, CLIP_60 = drawn(60, 5)


def scores(clips: Sequence[Clip], prompts: Sequence[Prompt], graded: bool = False) -> torch.Tensor:
    return MovingShapes(graded)(list(clips), [p.text for p in prompts])


def test_the_benchmark_is_distinct_and_fixed() -> None:
    assert Counter(p.category for p in PROMPTS) == {"one": 24, "two": 96}
    assert len(set(PROMPTS)) == len(PROMPTS)
    assert all(parse(p.text) == p for p in PROMPTS)
    assert {p.motions[0].text for p in PROMPTS[:24]} == {
        Motion(c, k, w).text for c in COLOURS for k in KINDS for w in DIRECTIONS
    }
    assert PROMPTS[24].text == "a purple circle moving right and a green circle moving right"
    with pytest.raises(ValueError, match="not as many as 25"):
        fresh_prompts(0, 25, "one")


def test_other_captions_are_refused_with_the_words_there_are() -> None:
    for text in (
        "a red circle",
        "a red star moving up",
        "a red circle moving away",
        "a red circle moving up and a red circle moving down",
    ):
        with pytest.raises(ValueError, match="the directions left, right, up, down"):
            parse(text)


def test_shapes_go_their_way_inside_the_picture_and_apart() -> None:
    for prompt, scene in zip(PROMPT_60, SCENE_60, strict=True):
        for motion, mover in zip(prompt.motions, scene, strict=True):
            path = np.array(mover.path)
            assert path.min() >= mover.radius + EDGE - 1e-6
            assert path.max() <= SIZE - mover.radius - EDGE + 1e-6
            steps = np.diff(path, axis=0)
            assert np.allclose(steps / np.abs(steps).max(), DIRECTIONS[motion.way])


def test_rendered_clips_are_right() -> None:
    assert CLIP_60.shape == (60, FRAMES, SIZE, SIZE, 3)
    assert scores(CLIP_60, PROMPT_60).tolist() == [1.0] * 60
    assert scores(CLIP_60, PROMPT_60, graded=True).tolist() == [1.0] * 60


def test_lists_of_pictures_and_larger_clips_are_judged_alike() -> None:
    few = [
        [Image.fromarray(f).resize((2 * SIZE, 2 * SIZE), Image.Resampling.NEAREST) for f in clip]
        for clip in CLIP_60[:8]
    ]
    assert MovingShapes()(few, [p.text for p in PROMPT_60[:8]]).tolist() == [1.0] * 8


def _changed(word: str, options: Sequence[str]) -> str:
    return options[(options.index(word) + 1) % len(options)]


def _colour(m: Motion) -> Motion:
    return replace(m, colour=_changed(m.colour, list(COLOURS)))


def _way(m: Motion) -> Motion:
    return replace(m, way=_changed(m.way, list(DIRECTIONS)))


@pytest.mark.parametrize("change", [_colour, _way])
def test_one_wrong_word_is_wrong(change: Callable[[Motion], Motion]) -> None:
    for prompt, clip in zip(PROMPT_60, CLIP_60, strict=True):
        wanted = Prompt((change(prompt.motions[0]), *prompt.motions[1:]))
        if len({m.colour for m in wanted.motions}) < len(wanted.motions):
            continue  # no caption
        assert scores([clip], [wanted]).item() == 0
        assert 0 < scores([clip], [wanted], graded=True).item() < 1


@pytest.mark.parametrize("kind", ["square", "triangle", "star", "ring"])
def test_other_kinds_are_wrong(kind: str) -> None:
    rng = np.random.default_rng(0)
    prompts = fresh_prompts(0, 12, "one")
    scenes = [tuple(replace(m, kind=kind, radius=6.5) for m in sample_scene(p, rng)) for p in prompts]
    assert scores(render(scenes), prompts).max() == 0


SPOILED: dict[str, Callable[[Clip], Clip]] = {
    "still": lambda clip: np.repeat(clip[:1], FRAMES, axis=0),
    "backwards": lambda clip: clip[::-1],
    "shuffled": lambda clip: clip[[0, 3, 1, 4, 2]],
    "flickers": lambda clip: np.where(
        np.arange(FRAMES)[:, None, None, None] == 2, np.array(GROUND, np.uint8), clip
    ),
    "late": lambda clip: np.where(
        np.arange(FRAMES)[:, None, None, None] == 0, np.array(GROUND, np.uint8), clip
    ),
    "colours change": lambda clip: np.where(
        np.arange(FRAMES)[:, None, None, None] % 2 == 1, clip[..., ::-1], clip
    ),
    "empty": lambda clip: np.broadcast_to(np.array(GROUND, np.uint8), clip.shape),
    "doubled": lambda clip: np.minimum(clip, clip[:, ::-1, ::-1]),
}


@pytest.mark.parametrize("way", SPOILED)
def test_spoiled_clips_are_wrong(way: str) -> None:
    chosen = [
        i for i, p in enumerate(PROMPT_60) if p.category == "one" and p.motions[0].colour in ("red", "blue")
    ]
    clips = [SPOILED[way](CLIP_60[i]) for i in chosen]
    assert len(clips) >= 5
    assert scores(clips, [PROMPT_60[i] for i in chosen]).max() == 0


def test_a_missing_second_object_costs_half() -> None:
    scene, prompt = SCENE_60[-1], PROMPT_60[-1]
    clip = render([scene[:1]])
    assert scores(clip, [prompt], graded=True).item() == pytest.approx(0.5)


def test_objects_lie_where_they_were_drawn() -> None:
    errors = []
    for scene, clip in zip(SCENE_60[:20], CLIP_60[:20], strict=True):
        for frame, found in enumerate(detect(clip)):
            errors += [abs(f.x - m.at(frame).x) + abs(f.y - m.at(frame).y) for f in found for m in scene[:1]]
    assert len(errors) == 20 * FRAMES
    assert max(errors) < 1.2


def test_pictures_and_short_clips_are_refused() -> None:
    with pytest.raises(UsageError, match="was given an image"):
        MovingShapes()([Image.new("RGB", (SIZE, SIZE))], ["a red circle moving up"])
    with pytest.raises(UsageError, match="1 frame"):
        MovingShapes()([CLIP_60[0][:1]], ["a red circle moving up"])
