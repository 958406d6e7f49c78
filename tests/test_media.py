"""Decoded images and videos, as verifiers see them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from genscale.media import Media, cat_media

PIXELS = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
CLIPS = torch.rand(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(1))


def test_pictures() -> None:
    media = Media(PIXELS)
    assert not media.is_video
    assert len(media) == 3
    assert all(isinstance(p, Image.Image) and p.size == (5, 4) for p in media)
    assert torch.equal(media.pixels, PIXELS)


def test_clips_are_lists_of_frames() -> None:
    media = Media(CLIPS)
    assert media.is_video
    assert len(media) == 2
    assert [len(clip) for clip in media] == [6, 6]
    assert np.array_equal(np.asarray(media[1][2]), np.asarray(media)[1, 2])


def test_rounding_is_that_of_diffusers() -> None:
    from diffusers.image_processor import VaeImageProcessor

    theirs = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(PIXELS))
    for ours, wanted in zip(Media(PIXELS), theirs, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(wanted))


def test_half_way_values_and_overflow() -> None:
    values = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 3.0])
    media = Media(values.expand(1, 3, 1, 7))
    assert np.asarray(media)[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float(dtype: torch.dtype) -> None:
    assert np.asarray(Media(PIXELS.to(dtype))).dtype == np.uint8


def test_array() -> None:
    array = np.asarray(Media(PIXELS))
    assert array.shape == (3, 4, 5, 3)
    assert array.dtype == np.uint8
    assert np.asarray(Media(PIXELS), dtype=np.float32).dtype == np.float32
    assert np.asarray(Media(CLIPS)).shape == (2, 6, 4, 5, 3)


def test_slices_stay_media() -> None:
    media = Media(PIXELS)
    assert isinstance(media[1:], Media)
    assert torch.equal(media[1:].pixels, PIXELS[1:])
    assert np.array_equal(np.asarray(media[-1]), np.asarray(media[2]))
    with pytest.raises(IndexError):
        media[3]


def test_cat() -> None:
    media = Media(PIXELS)
    assert torch.equal(cat_media([media[:1], media[1:]]).pixels, PIXELS)
    assert cat_media([media]) is media


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[n, 3, h, w\]"):
        Media(PIXELS[0])


def test_gradients_do_not_matter() -> None:
    assert np.asarray(Media(PIXELS.clone().requires_grad_())).shape == (3, 4, 5, 3)
