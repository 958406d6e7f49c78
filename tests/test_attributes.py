"""The judges of attributes: probabilities from detections exactly, drawn and generated images, and broken twins."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import genscale
from genscale.errors import UsageError
from genscale.media import Media
from genscale.toy import moving_shapes
from genscale.toy.captions import COLOURS, KINDS, parse
from genscale.toy.hard_prompts import COUNTS, REPORT, kind
from genscale.toy.shapes import PROMPTS, Scene, Shape, render, sample_scene
from genscale.verifiers import attribute_detector, shapes_attributes
from genscale.verifiers.attribute_detector import FOLDER, Detection, Detector, read_detector
from genscale.verifiers.moving_attributes import MovingAttributes
from genscale.verifiers.moving_shapes import MovingShapes
from genscale.verifiers.shapes import Shapes, satisfies
from genscale.verifiers.shapes_attributes import ShapesAttributes, probability
from genscale.verifiers.vqa_score import VqaScore


def pixels(scenes: Sequence[Scene]) -> torch.Tensor:
    return torch.from_numpy(render(list(scenes))).permute(0, 3, 1, 2).float() / 255


def auc(scores: torch.Tensor, right: torch.Tensor) -> float:
    """How often a right one scores higher than a wrong one; half for a tie."""
    above, below = scores[right > 0.5][:, None], scores[right < 0.5][None]
    return float(((above > below).float() + 0.5 * (above == below).float()).mean())


def shuffled(detector: Detector) -> Detector:
    """The twin: the weights of every layer in another order."""
    generator = torch.Generator().manual_seed(0)
    state = {
        k: v.flatten()[torch.randperm(v.numel(), generator=generator)].view_as(v)
        for k, v in detector.state_dict().items()
    }
    twin = Detector()
    twin.load_state_dict(state)
    return twin.eval()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every judge made from here on read the twin's weights."""

    def install() -> None:
        twin = shuffled(read_detector())
        monkeypatch.setattr("genscale.verifiers.by_detector.read_detector", lambda: twin)

    return install


# ------------------------------------------------------------------ probabilities of captions


SOME_KINDS, SOME_COLOURS = ("circle", "star", "ring", "blob"), ("red", "green", "blue", "mixed")


def detection(rng: np.random.Generator, place: int) -> Detection:
    """Sure of nothing but that it is one of these, at one of six places."""
    kinds, colours = np.zeros(len(KINDS) + 1), np.zeros(len(COLOURS) + 1)
    kinds[[(*KINDS, "blob").index(k) for k in SOME_KINDS]] = rng.dirichlet([0.7] * 4)
    colours[[(*COLOURS, "mixed").index(c) for c in SOME_COLOURS]] = rng.dirichlet([0.7] * 4)
    x, y = 12.0 + 20 * (place % 3), 20.0 + 24 * (place // 3)
    return Detection(float(rng.uniform(0.2, 0.95)), x, y, kinds, colours)


def enumerated(found: list[Detection], text: str) -> float:
    """P by every possible world: each detection absent, or there with some kind and colour."""
    total, wanted = 0.0, parse(text)
    options = []
    for f in found:
        chance = {
            (c, k): f.colours[(*COLOURS, "mixed").index(c)] * f.kinds[(*KINDS, "blob").index(k)]
            for c in SOME_COLOURS
            for k in SOME_KINDS
        }
        options.append([(None, 1 - f.there), *((noun, f.there * p) for noun, p in chance.items())])
    for world in itertools.product(*options):
        shapes = [Shape(n[1], n[0], f.x, f.y, 9) for f, (n, _) in zip(found, world, strict=True) if n]
        if satisfies(shapes, wanted):
            total += float(np.prod([p for _, p in world]))
    return total


@pytest.mark.parametrize(
    "text",
    [
        *("a red star", "two red stars", "a red star and a blue ring", "a red star and a blue star"),
        *("a red star left of a blue ring", "a red star above a red star", "two red stars below a blue ring"),
        *("a red star no ring", "no blue ring", "no ring"),
    ],
)
def test_the_probability_is_the_sum_over_all_worlds(text: str) -> None:
    """The relation is nearly certain at these places (4 pixels or more from the margin), so the rest is exact."""
    rng = np.random.default_rng(1)
    for places in ((0, 4), (5, 0), (0, 5, 1)):
        found = [detection(rng, place) for place in places]
        assert probability(found, parse(text)) == pytest.approx(enumerated(found, text), abs=2e-4)


def test_three_nouns_too_and_a_wrong_formula_is_caught() -> None:
    rng = np.random.default_rng(2)
    found = [detection(rng, place) for place in (0, 4, 2)]
    text = "red star and blue ring and green circle"
    assert probability(found, parse(text)) == pytest.approx(enumerated(found, text), abs=1e-9)
    sure = [f._replace(there=1.0) for f in found]  # the twin that takes detections for certain
    assert probability(sure, parse(text)) != pytest.approx(enumerated(found, text), rel=0.05)
    assert probability([], parse(text)) == probability([], parse("no ring")) == 0


def test_a_relation_is_as_sure_as_the_places_are() -> None:
    rng = np.random.default_rng(3)
    a, b = (detection(rng, 0)._replace(there=1.0, kinds=np.eye(6)[3], colours=np.eye(7)[c]) for c in (0, 2))
    caption = parse("a red star left of a blue star")
    chances = [probability([a, b._replace(x=a.x + d)], caption) for d in (0, 3, 4, 5, 9)]
    assert chances == sorted(chances)
    assert chances[2] == pytest.approx(0.5)
    assert chances[0] < 0.05 < 0.95 < chances[-1]


# ------------------------------------------------------------------ drawn images


def drawn(name: str, n: int, rng: np.random.Generator) -> tuple[list[Scene], list[str]]:
    """Scenes with captions, by turns the right one, and one that is nearly right."""
    prompts = [
        p
        for p in (REPORT if name in COUNTS else PROMPTS)
        if (kind(p) if name in COUNTS else p.category) == name
    ]
    scenes, texts = [], []
    for i in range(n):
        prompt = prompts[i % len(prompts)]
        scene = sample_scene(prompt, rng)
        shapes = list(scene.shapes)
        if i % 2:
            j = int(rng.integers(len(shapes)))
            way = int(rng.integers(3)) if name != "bare" else 3
            if way == 0:
                shapes[j] = replace(
                    shapes[j], colour=str(rng.choice([c for c in COLOURS if c != shapes[j].colour]))
                )
            elif way == 1:
                shapes[j] = replace(
                    shapes[j], kind=str(rng.choice([k for k in KINDS if k != shapes[j].kind]))
                )
            elif way == 2:
                shapes = [
                    replace(s, x=64 - s.x, y=min(max(64 - s.y, s.radius), 64 - s.radius))
                    for s in shapes[: max(1, len(shapes) - 1)]
                ]
            else:
                colour, shape = prompt.requirement.absent or ("", "")
                shapes[j] = replace(shapes[j], colour=colour, kind=shape)
        scenes.append(Scene(tuple(shapes)))
        texts.append(prompt.text)
    return scenes, texts


@pytest.mark.parametrize("name", [*COUNTS, "single", "counting", "position"])
def test_drawn_images_are_told_apart_and_the_twin_cannot(name: str, broken: Callable[[], None]) -> None:
    scenes, texts = drawn(name, 40, np.random.default_rng(5))
    truth = torch.tensor([float(satisfies(s.shapes, parse(t))) for s, t in zip(scenes, texts, strict=True)])
    assert 0.2 < truth.mean() < 0.9
    media = Media(pixels(scenes))
    scores = ShapesAttributes()(media, texts)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert auc(scores, truth) > 0.97
    assert float((scores.round() == truth).float().mean()) > 0.92
    broken()
    assert auc(ShapesAttributes()(media, texts), truth) < 0.75


def test_the_exact_judge_has_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the exact judge was asked")

    for name in ("detect", "objects", "satisfies", "fraction", "templates"):
        monkeypatch.setattr(f"genscale.verifiers.shapes.{name}", refuse)
    scenes, texts = drawn("position", 2, np.random.default_rng(6))
    assert ShapesAttributes()(Media(pixels(scenes)), texts).shape == (2,)
    for module in (attribute_detector, shapes_attributes):
        assert "scipy" not in vars(module)


def test_scores_do_not_depend_on_the_batch_nor_on_the_form_of_the_images() -> None:
    scenes, texts = drawn("unseen", 12, np.random.default_rng(7))
    whole = pixels(scenes)
    together = ShapesAttributes()(Media(whole), texts)
    alone = torch.cat(
        [ShapesAttributes(batch_size=1)(Media(whole[i : i + 1]), texts[i : i + 1]) for i in range(12)]
    )
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        ShapesAttributes(batch_size=5)(Media(whole), texts), together, atol=1e-4, rtol=0
    )
    images = [Image.fromarray(p) for p in render(scenes)]
    torch.testing.assert_close(ShapesAttributes()(images, texts), together, atol=1e-4, rtol=0)
    large = [image.resize((128, 128), Image.Resampling.NEAREST) for image in images]
    torch.testing.assert_close(ShapesAttributes()(large, texts), together, atol=1e-3, rtol=0)


def test_a_blurred_image_is_less_sure_than_a_clear_one() -> None:
    """As previews are: two scenes over each other are of neither caption for sure."""
    scenes, texts = drawn("single", 20, np.random.default_rng(8))
    clear = pixels(scenes[::2])
    mixture = (clear + clear.roll(1, 0)) / 2
    judge = ShapesAttributes()
    sure, unsure = judge(Media(clear), texts[::2]), judge(Media(mixture), texts[::2])
    assert sure.mean() > 0.95
    assert unsure.mean() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("model", ["shapes-flow", "shapes-diffusion"])
def test_generated_images_are_ranked_as_the_exact_judge_does(model: str, broken: Callable[[], None]) -> None:
    pipe = genscale.load_pipeline(model)
    texts = [p.text for p in (*REPORT[:40], *PROMPTS[::4])]
    made = pipe(
        texts, num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(0)
    ).images
    right = Shapes()(made, texts)
    assert 0.15 < right.mean() < 0.7
    scores = ShapesAttributes()(made, texts)
    assert auc(scores, right) > 0.9
    assert float(((scores - right) ** 2).mean()) < 0.8 * float(
        right.var()
    )  # better than the base rate for all
    broken()
    assert auc(ShapesAttributes()(made, texts), right) < 0.8


def test_what_it_declares_and_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ShapesAttributes.answers_probability
    assert MovingAttributes.answers_probability
    assert VqaScore(scale="probability").answers_probability
    assert not VqaScore().answers_probability
    assert (FOLDER / "model.safetensors").stat().st_size < 1.5e6
    cpu = torch.device("cpu")
    ShapesAttributes().prepare(["no blue circle", "a red star"], cpu)
    with pytest.raises(UsageError, match="verifier 'shapes_attributes': 'a dog' is no caption"):
        ShapesAttributes().prepare(["a dog"], cpu)
    with pytest.raises(UsageError, match="was given videos: use moving_attributes"):
        ShapesAttributes()(Media(torch.zeros(1, 5, 3, 64, 64)), ["a red star"])
    with pytest.raises(UsageError, match=r"verifier 'moving_attributes'.*is no caption"):
        MovingAttributes().prepare(["a red star"], cpu)
    with pytest.raises(UsageError, match="moving_attributes compares frames"):
        MovingAttributes()(Media(torch.zeros(1, 3, 32, 32)), ["a red circle moving left"])
    with pytest.raises(UsageError, match=r"shapes_attributes needs .* install genscale again"):
        read_detector(FOLDER / "missing")


# ------------------------------------------------------------------ drawn videos


def videos(n: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Videos of captions, by turns the right one, one with another direction, and one with another colour."""
    prompts = moving_shapes.fresh_prompts(9, n)
    made = moving_shapes.render([moving_shapes.sample_scene(p, rng) for p in prompts])
    texts, truth = [], []
    for i, prompt in enumerate(prompts):
        first, *rest = prompt.motions
        if i % 3 == 1:
            first = replace(
                first, way={"left": "up", "up": "right", "right": "down", "down": "left"}[first.way]
            )
        elif i % 3 == 2:
            first = replace(
                first, colour=next(c for c in COLOURS if all(c != m.colour for m in prompt.motions))
            )
        texts.append(moving_shapes.Prompt((first, *rest)).text)
        truth.append(float(i % 3 == 0))
    return torch.from_numpy(made).permute(0, 1, 4, 2, 3).float() / 255, texts, torch.tensor(truth)


def test_drawn_videos_are_told_apart_and_the_twin_cannot(broken: Callable[[], None]) -> None:
    made, texts, truth = videos(48, np.random.default_rng(4))
    assert MovingShapes()([np.asarray(m) for m in np.asarray(Media(made))], texts).tolist() == truth.tolist()
    scores = MovingAttributes()(Media(made), texts)
    assert auc(scores, truth) > 0.97
    assert float((scores.round() == truth).float().mean()) > 0.9
    one = MovingAttributes(batch_size=3)(Media(made[:1]), texts[:1])
    torch.testing.assert_close(one, scores[:1], atol=1e-4, rtol=0)
    still = made[:, :1].expand_as(made)  # nothing moves
    assert MovingAttributes()(Media(still), texts).max() < 0.1
    assert MovingAttributes()(Media(made.flip(1)), texts)[truth > 0].max() < 0.1  # each goes backwards
    broken()
    assert auc(MovingAttributes()(Media(made), texts), truth) < 0.75
