"""Verifiers of videos on videos whose scores are known: still, moving, flickering."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.clip import SHAPES_CLIP, Clip, ShapesClip
from genscale.verifiers.compressibility import Compressibility
from genscale.verifiers.dynamic_degree import DynamicDegree
from genscale.verifiers.frames import Frames
from genscale.verifiers.temporal_consistency import TemporalConsistency
from tests.test_verifiers import noise

FRAMES, SIDE = 8, 32
PROMPTS = ["a red circle", "a blue square"]


def still() -> Tensor:
    return noise(1, 3, SIDE, SIDE).repeat(FRAMES, 1, 1, 1)


def moving() -> Tensor:
    """A white bar, 4 wide, that goes one pixel a frame over black."""
    clip = torch.zeros(FRAMES, 3, SIDE, SIDE)
    for i in range(FRAMES):
        clip[i, :, :, i : i + 4] = 1
    return clip


def flickering() -> Tensor:
    return (torch.arange(FRAMES) % 2).float().view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE)


def clips() -> Tensor:
    return torch.stack([still(), moving(), flickering()])


def consistency() -> TemporalConsistency:
    return TemporalConsistency(str(SHAPES_CLIP), None)


def test_dynamic_degree_is_exact_on_known_clips() -> None:
    # a pixel's step changes one column on each side of the bar, by 1; flicker changes everything
    found = DynamicDegree()(Media(clips()))
    torch.testing.assert_close(found, torch.tensor([0.0, 2 / SIDE, 1.0]))
    twice = DynamicDegree()(Media(clips()[:, ::2]))  # half the frames: the bar goes two pixels a frame
    torch.testing.assert_close(twice, torch.tensor([0.0, 4 / SIDE, 0.0]))


def test_temporal_consistency_is_the_mean_cosine_of_neighbours() -> None:
    media = Media(torch.cat([clips(), clips().flip(1)]))
    found = consistency()(media)
    seen = Clip(str(SHAPES_CLIP)).embed(media.pixels)
    pairs = [
        torch.stack([torch.cosine_similarity(c[i], c[i + 1], dim=0) for i in range(FRAMES - 1)]).mean()
        for c in seen
    ]
    torch.testing.assert_close(found, torch.stack(pairs), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:3], found[3:], atol=1e-5, rtol=0)  # time has no direction
    assert float(found[0]) == pytest.approx(1, abs=1e-5)
    assert float(found[1]) < 1 - 1e-4
    assert float(found[2]) < float(found[0]) - 1e-3
    mixed = media.pixels[1][[0, 7, 1, 6, 2, 5, 3, 4]][None]
    assert float(consistency()(Media(mixed))) < float(found[1])  # a shuffled clip is less consistent


@pytest.mark.parametrize("verifier", [DynamicDegree(), consistency(), Frames(ShapesClip(), k=3)])
def test_gradients_are_those_of_finite_differences(verifier: DynamicDegree) -> None:
    pixels = (0.25 + noise(2 * 4, 3, SIDE, SIDE).reshape(2, 4, 3, SIDE, SIDE) / 2).requires_grad_()
    before = verifier.score_tensor(pixels, PROMPTS)
    (slope,) = torch.autograd.grad(before.sum(), pixels)
    way = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    h = 1e-2
    with torch.no_grad():
        up, down = (verifier.score_tensor(pixels + s * way, PROMPTS) for s in (h, -h))
    torch.testing.assert_close((up - down) / (2 * h), slope.flatten(1).norm(dim=1), rtol=0.05, atol=1e-4)


def test_frames_are_evenly_spaced_and_reduced() -> None:
    pixels, prompts = noise(2 * 9, 3, SIDE, SIDE).reshape(2, 9, 3, SIDE, SIDE), PROMPTS
    each = torch.stack([ShapesClip().score_tensor(pixels[:, i], prompts) for i in range(9)], dim=1)
    ways = {"mean": each[:, [0, 4, 8]].mean(1), "min": each[:, [0, 4, 8]].amin(1)}
    ways["median"] = each[:, [0, 4, 8]].median(1).values
    for reduce, expected in ways.items():
        found = Frames(ShapesClip(), k=3, reduce=reduce)(Media(pixels), prompts)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    whole = Frames("shapes_clip", k=50)(Media(pixels), prompts)
    torch.testing.assert_close(whole, ShapesClip()(Media(pixels), prompts), atol=1e-5, rtol=0)
    first = Frames(ShapesClip(), k=1)(Media(pixels), prompts)
    torch.testing.assert_close(first, each[:, 0], atol=1e-5, rtol=0)
    one = Frames(ShapesClip())(Media(pixels[:, :1]), prompts)
    torch.testing.assert_close(one, each[:, 0], atol=1e-5, rtol=0)


def test_frames_lift_what_knows_pictures_only_and_leave_pictures_alone() -> None:
    def brightness(media: Media, prompts: list[str]) -> list[float]:
        assert media.pixels.ndim == 4
        assert len(prompts) == len(media)
        return media.pixels.flatten(1).mean(1).tolist()

    found = Frames(brightness)(Media(clips()), ["", "", ""])
    torch.testing.assert_close(found, clips().flatten(1).mean(1))
    pictures = Media(noise(2, 3, SIDE, SIDE))
    assert torch.equal(Frames(ShapesClip(), reduce="min")(pictures, PROMPTS), ShapesClip()(pictures, PROMPTS))


def test_what_cannot_be_judged_is_refused() -> None:
    pictures = Media(noise(2, 3, SIDE, SIDE))
    for verifier in (DynamicDegree(), consistency()):
        for media in (pictures, Media(pictures.pixels[:, None])):
            with pytest.raises(UsageError, match="at least 2"):
                verifier(media)
    with pytest.raises(UsageError, match="k of at least 1"):
        Frames(k=0)
    with pytest.raises(UsageError, match="is unknown"):
        Frames(reduce="max")
    with pytest.raises(UsageError, match="no gradients"):
        Frames(Compressibility()).score_tensor(clips(), PROMPTS)
