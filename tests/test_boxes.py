"""Boxes: what a verifier is shown of a region, how the parts add up, and what a file may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from genscale.engine.verifier_roles import WeightedVerifier
from genscale.errors import UsageError
from genscale.media import Media
from genscale.runs import verifier_specs
from genscale.toy.shapes import COLOURS, KINDS, Scene, Shape, render
from genscale.verifiers.boxes import Boxes
from genscale.verifiers.boxes_file import read_boxes
from genscale.verifiers.clip import ShapesClip
from genscale.verifiers.compressibility import Compressibility
from genscale.verifiers.regions import Box

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


class Redness:
    """Mean of a channel that the text names; keeps what it was shown."""

    name = "redness"

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[int, ...], list[str]]] = []

    def score_tensor(self, pixels: Tensor, prompts: Any) -> Tensor:
        self.seen.append((tuple(pixels.shape), list(prompts)))
        channel = torch.tensor([("red", "green", "blue").index(p.split()[-1]) for p in prompts])
        flat = pixels.mean(1) if pixels.ndim == 5 else pixels
        return flat[torch.arange(len(flat)), channel].mean((1, 2))

    def __call__(self, media: Media, prompts: Any) -> Tensor:
        return self.score_tensor(media.pixels, prompts)


def halves(n: int = 1, size: int = 8) -> Tensor:
    """Red on the left, blue on the right."""
    pixels = torch.zeros(n, 3, size, size)
    pixels[:, 0, :, : size // 2] = 1
    pixels[:, 2, :, size // 2 :] = 1
    return pixels


# ---------------------------------------------------------------- what is shown


def test_a_crop_is_the_region_enlarged() -> None:
    seen = Box("x", (0.5, 0.0, 1.0, 0.5)).seen(halves()[0], "crop", "mean")
    assert seen.shape == (3, 8, 8)
    assert torch.allclose(seen[2], torch.ones(8, 8))
    assert seen[0].abs().max() == 0


def test_enlarging_is_pillow_s() -> None:
    pixels = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    mine = Box("x", (0.25, 0.25, 0.75, 0.75)).seen(pixels, "crop", "mean")[0]
    crop = Image.fromarray(pixels[0, 8:24, 8:24].numpy(), mode="F")
    assert torch.allclose(
        mine, torch.from_numpy(np.array(crop.resize((32, 32), Image.Resampling.BILINEAR))), atol=1e-5
    )


def test_a_mask_view_paints_the_rest_over() -> None:
    seen = Box("x", RIGHT).seen(halves()[0], "mask", 0.25)
    assert torch.equal(seen[:, :, 4:], halves()[0, :, :, 4:])
    assert (seen[:, :, :4] == 0.25).all()
    mean = Box("x", (0.25, 0.0, 0.75, 1.0)).seen(halves()[0], "mask", "mean")
    assert torch.allclose(mean[:, 0, 0], torch.tensor([0.5, 0.0, 0.5]))


def test_masks_of_any_size_and_their_bounding_box() -> None:
    mask = torch.zeros(4, 4)
    mask[0:2, 2:4] = 1
    mask[1, 3] = 0  # left out of its bounding box
    box = Box("x", mask=mask)
    assert box.bounds(8, 8) == (4, 0, 8, 4)
    assert box.area == pytest.approx(3 / 16)
    assert torch.equal(
        box.seen(halves(size=4)[0], "mask", 0.0)[2], mask
    )  # of its own size nothing is smoothed
    seen = box.seen(halves()[0], "crop", 0.0)
    assert seen.shape == (3, 8, 8)
    assert seen[2, :4, :4].mean() > 0.8
    assert seen[2, -1, -1] == pytest.approx(0, abs=0.1)


def test_boxes_are_fractions_and_never_empty() -> None:
    assert Box("x", (0.2, 0.1, 0.4, 1.0)).bounds(50, 10) == (2, 5, 4, 50)
    assert Box("x", (0.5, 0.5, 0.500001, 0.500001)).bounds(8, 8) == (4, 4, 5, 5)
    assert Box("x", (0.999, 0.0, 1.0, 1.0)).bounds(8, 8) == (7, 0, 8, 8)


# ---------------------------------------------------------------- how it adds up


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("by", ["box", "area"])
def test_the_score_is_the_formula(share: float, by: str) -> None:
    inner = Redness()
    boxes = [Box("red", LEFT), Box("red", (0.5, 0.0, 1.0, 0.5)), Box("blue", RIGHT)]
    made = float(Boxes(inner, boxes, share=share, by=by)(Media(halves()), ["red"]))
    areas = [0.5, 0.25, 0.5] if by == "area" else [1, 1, 1]
    regions = sum(a * s for a, s in zip(areas, [1.0, 0.0, 1.0], strict=True)) / sum(areas)
    assert made == pytest.approx((1 - share) * 0.5 + share * regions)
    assert len(inner.seen) == 1  # all in one call
    assert inner.seen[0][1] == (["red"] if share == 0 else ["red", "red", "red", "blue"])


def test_prompts_have_boxes_of_their_own_or_none() -> None:
    boxes = {"all red": [Box("red", RIGHT)], "all blue": [Box("blue", RIGHT)]}
    made = Boxes(Redness(), boxes, share=1.0)(Media(halves(3)), ["all red", "all green", "all blue"])
    assert made.tolist() == pytest.approx([0.0, 0.0, 1.0])
    assert Boxes(Redness(), {}, share=1.0)(Media(halves()), ["all red"]).tolist() == pytest.approx([0.5])


def test_boxes_hold_in_every_frame() -> None:
    clip = torch.stack([halves(2), halves(2).flip(-1)], 1)  # [n, frames, 3, h, w], the second mirrored
    made = Boxes(Redness(), [Box("red", LEFT)], share=1.0)
    assert made(Media(clip), ["red", "red"]).tolist() == pytest.approx([0.5, 0.5])
    assert made.score_tensor(clip, ["red", "red"]).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("view", ["crop", "mask"])
def test_gradients_are_finite_differences(view: str) -> None:
    def squared(pixels: Tensor, prompts: Any) -> Tensor:
        return (pixels**2).flatten(1).mean(1)

    class Inner:
        score_tensor = staticmethod(squared)

        def __call__(self, media: Media, prompts: Any) -> Tensor:
            return squared(media.pixels, prompts)

    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(1))
    boxes = Boxes(Inner(), [Box("a", (0.1, 0.2, 0.6, 0.9)), Box("b", mask=mask)], view=view)
    pixels = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: boxes.score_tensor(x, ["a", "b"]), pixels.requires_grad_())


def test_any_verifier_may_be_inside() -> None:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = Boxes(Compressibility(), [Box("x", LEFT)], share=0.0)(Media(pixels), ["", ""])
    assert torch.equal(plain, Compressibility()(Media(pixels)))
    assert Boxes(Compressibility(), [Box("x", LEFT)]).name == "boxes(compressibility)"
    with pytest.raises(UsageError, match=r"boxes\(compressibility\)' cannot be differentiated"):
        WeightedVerifier("boxes(compressibility)", Boxes(Compressibility(), [Box("x", LEFT)])).score_graph(
            Media(pixels.requires_grad_()), ["", ""], ["1", "2"]
        )
    listed = Boxes(lambda media, prompts: [0.5] * len(prompts), [Box("x", LEFT)])
    assert listed(Media(pixels), ["", ""]).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="gave 1 scores for 4"):
        Boxes(lambda media, prompts: [0.5], [Box("x", LEFT)])(Media(pixels), ["", ""])


def placed(rng: np.random.Generator, corner: tuple[int, int], noun: tuple[str, str]) -> Shape:
    radius = float(rng.uniform(8.5, 13))
    x, y = (32 * c + float(rng.uniform(radius, 32 - radius)) for c in corner)
    return Shape(noun[1], noun[0], x, y, radius)


def test_the_embedded_clip_knows_a_shape_in_its_box() -> None:
    """On drawn images: in the box against elsewhere, and against another kind in the box."""
    rng, n = np.random.default_rng(0), 40
    right, elsewhere, other, texts, boxes = [], [], [], [], []
    for _ in range(n):
        colour, kind = str(rng.choice(list(COLOURS))), str(rng.choice(KINDS))
        x, y = int(rng.integers(2)), int(rng.integers(2))
        right.append(Scene((placed(rng, (x, y), (colour, kind)),)))
        elsewhere.append(Scene((placed(rng, (1 - x, y), (colour, kind)),)))
        other.append(Scene((placed(rng, (x, y), (colour, KINDS[KINDS.index(kind) - 1])),)))
        texts.append(f"a {colour} {kind}")
        boxes.append((x / 2, y / 2, x / 2 + 0.5, y / 2 + 0.5))

    def wins(rival: Any, **options: Any) -> float:
        numbers = [str(i) for i in range(n)]
        own = {i: [Box(t, b)] for i, t, b in zip(numbers, texts, boxes, strict=True)}
        judge = Boxes("shapes_clip", own, share=1.0, **options)
        pixels = (torch.from_numpy(render(s)).permute(0, 3, 1, 2).float() / 255 for s in (right, rival))
        good, bad = (judge(Media(p), numbers) for p in pixels)
        return float((good > bad).double().mean())

    half = 1.96 * 0.5 / n**0.5
    assert wins(elsewhere) > 0.5 + half
    assert wins(other) > 0.5 + half
    assert wins(elsewhere, view="crop") < 0.5  # close-ups are new to it: why it asks for masks


def test_a_verifier_says_how_it_wants_regions_shown() -> None:
    said = Boxes("shapes_clip", [Box("a red star", LEFT)])
    assert (said.view, said.fill) == ("mask", 245 / 255)
    assert Boxes(verifier_specs.Named("mine", ShapesClip()), []).view == "mask"
    assert Boxes("shapes_clip", [], view="crop").view == "crop"
    assert (Boxes(Redness(), []).view, Boxes(Redness(), []).fill) == ("crop", "mean")


# ---------------------------------------------------------------- refusals and files


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box("", LEFT), "needs a text"),
        (lambda: Box("x"), "either a box or a mask"),
        (lambda: Box("x", LEFT, torch.ones(2, 2)), "either a box or a mask"),
        (lambda: Box("x", (0, 0, 2, 1)), "fractions"),
        (lambda: Box("x", (0.5, 0, 0.5, 1)), "fractions"),
        (lambda: Box("x", (0, 0, float("nan"), 1)), "fractions"),
        (lambda: Box("x", (0, 0, 1)), "four numbers"),  # type: ignore[arg-type]
        (lambda: Box("x", mask=torch.zeros(2, 2)), "black"),
        (lambda: Box("x", mask=torch.ones(2)), "height, width"),
        (lambda: Box("x", mask="nowhere.png"), "cannot be read"),
        (lambda: Boxes(Redness(), [], share=1.5), "share=1.5"),
        (lambda: Boxes(Redness(), [], by="size"), "by='size'"),
        (lambda: Boxes(Redness(), [], view="near"), "view='near'"),
        (lambda: Boxes(Redness(), [], fill=2.0), "fill=2.0"),
        (lambda: Boxes(Redness(), ["a red star"]), "lists of Box"),
        (lambda: Boxes(3, []), "is not a verifier"),
        (lambda: Boxes("no_such", []), "no_such"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


PROMPTS = ("a red star", "a blue ring")
GOOD = {"text": "a red star", "box": [0, 0, 0.5, 0.5]}


def written(folder: Path, data: Any) -> Path:
    path = folder / "boxes.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_files(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 255).save(tmp_path / "mask.png")
    mask = {"text": "a ring", "mask": "mask.png"}  # beside the file, from whatever folder it is read
    one = read_boxes(written(tmp_path, [GOOD, mask]), PROMPTS)
    assert isinstance(one, list)
    assert [(b.text, b.area) for b in one] == [("a red star", 0.25), ("a ring", 1.0)]
    some = read_boxes(written(tmp_path, {"a red star": [GOOD], "1": [mask]}), PROMPTS)
    assert isinstance(some, dict)
    assert {k: [b.text for b in v] for k, v in some.items()} == {
        "a red star": ["a red star"],
        "a blue ring": ["a ring"],
    }
    assert isinstance(Boxes("shapes_clip", str(tmp_path / "boxes.json")).boxes, dict)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not JSON"),
        ("3", "neither a list"),
        ([{"text": "a"}], "box 1: 'a' needs either"),
        ([GOOD, {"box": [0, 0, 1, 1]}], "box 2: it needs a text"),
        ([{**GOOD, "colour": "red"}], "box 1: it needs"),
        ([{**GOOD, "box": [0, 0, 1, 3]}], "box 1: the box of 'a red star' must be fractions"),
        ([{**GOOD, "box": "all"}], "list of four numbers"),
        ([{**GOOD, "box": [0, 0, "a", 1]}], "four numbers"),
        ([{"text": "a", "mask": "none.png"}], "mask .*none.png' of 'a' cannot be read"),
        ([{"text": "a", "mask": 3}], "name of an image"),
        ({"a red star": GOOD}, "boxes of 'a red star' must be a list"),
        ({"a red sta": [GOOD]}, r"none of the prompts \(did you mean 'a red star'\?\)"),
        ({"2": [GOOD]}, "no prompt 2, only 0 to 1"),
        ({"0": [GOOD], "a red star": []}, "twice, as '0' and 'a red star'"),
        ('{"0": [], "0": []}', "'0' twice"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as found:
        read_boxes(written(tmp_path, data), PROMPTS)
    assert "boxes.json" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json' cannot be read: No such file"):
        read_boxes(tmp_path / "none.json")
