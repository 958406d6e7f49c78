"""sharpness against scipy's Laplacian, and what it should and should not tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import ndimage
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import registry
from genscale.verifiers.sharpness import Sharpness
from tests.test_verifiers import drawn, noise, smooth


def plain(pixels: Tensor) -> Tensor:
    """By Pillow's grey, which is rounded, and scipy."""
    found = []
    for image in Media(pixels):
        assert isinstance(image, Image.Image)
        grey = np.asarray(image.convert("L"), np.float64)
        found.append(ndimage.laplace(grey)[1:-1, 1:-1].var())
    return torch.tensor(found)


def test_it_is_the_variance_of_the_laplacian_of_the_grey_image() -> None:
    pixels = torch.cat([noise(2, 3, 40, 32), drawn(1, 40)[..., :32], smooth(1, 40, 32)])
    scores = Sharpness()(Media(pixels))
    torch.testing.assert_close(scores[:3].double(), plain(pixels)[:3], rtol=2e-3, atol=0.5)
    assert (
        float((scores[3] - plain(pixels)[3]).abs()) < 3
    )  # whole levels of grey: rounding has variance 20 / 12
    torch.testing.assert_close(Sharpness(scale="log")(Media(pixels)), (1 + scores).log())


def test_its_scale_is_the_documented_one() -> None:
    assert Sharpness()(Media(torch.full((1, 3, 9, 9), 0.3))).item() == pytest.approx(0, abs=1e-6)
    grey = (noise(1, 1, 256, 256) * 255).expand(-1, 3, -1, -1)
    ratio = Sharpness()(Media(grey / 255)).item() / float(grey[0, 0].var())
    assert ratio == pytest.approx(20, rel=0.03)
    step = torch.zeros(1, 3, 3, 4)
    step[..., 2:] = 1  # its inner Laplacians are 255 and -255
    assert Sharpness()(Media(step)).item() == pytest.approx(255**2, rel=1e-5)


def test_blur_lowers_it_more_and_more() -> None:
    image = Media(drawn(1, 64))[0]
    assert isinstance(image, Image.Image)
    blurred = [np.asarray(image.filter(ImageFilter.GaussianBlur(r))) for r in (0, 0.5, 1, 2, 4)]
    pixels = torch.from_numpy(np.stack(blurred)).permute(0, 3, 1, 2) / 255
    scores = Sharpness()(Media(pixels)).tolist()
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 10 * scores[2]


def test_order_batches_frames_and_precision() -> None:
    pixels = noise(6, 3, 16, 20)
    verifier = registry.make("verifier", "sharpness", {})
    whole = verifier(Media(pixels))
    assert whole.shape == (6,)
    assert bool(whole.isfinite().all())
    torch.testing.assert_close(verifier(Media(pixels.flip(0))), whole.flip(0))
    torch.testing.assert_close(verifier(Media(pixels[2:3])), whole[2:3])
    torch.testing.assert_close(verifier(Media(pixels.reshape(2, 3, 3, 16, 20))), whole.reshape(2, 3).mean(1))
    assert verifier.score_tensor(pixels.half()).dtype == torch.float32
    assert verifier.score_tensor(pixels.double()).dtype == torch.float64


@pytest.mark.parametrize("scale", ["variance", "log"])
def test_gradients_are_those_of_finite_differences(scale: str) -> None:
    verifier, pixels = Sharpness(scale=scale), noise(2, 3, 8, 9).double().requires_grad_()
    assert torch.autograd.gradcheck(verifier.score_tensor, (pixels,), eps=1e-7, atol=1e-2, rtol=1e-3)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="scale 'db' is unknown"):
        Sharpness(scale="db")
    with pytest.raises(UsageError, match="at least 3 x 3 pixels, not 2 x 9"):
        Sharpness()(Media(noise(1, 3, 2, 9)))
