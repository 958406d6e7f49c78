"""What a pipeline made, of any kind, as verifiers see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genscale.engine.finite_numbers import media_faults
from genscale.engine.verifier_calls import OwnMedia
from genscale.media import Media, cat_media
from genscale.media_items import KINDS, Audio, Map, Mesh, Vector
from genscale.media_items import PIXELS as OF_PIXELS

PIXELS = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
CLIPS = torch.rand(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(1))
SOUNDS = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(2))


def mesh(scale: float = 1.0) -> Mesh:
    return Mesh(np.eye(3, dtype=np.float32) * scale, np.array([[0, 1, 2]]))


OF_EACH_KIND: dict[str, Media] = {
    "image": Media(PIXELS),
    "video": Media(CLIPS),
    "audio": Media(SOUNDS, "audio", 8000),
    "depth": Media(PIXELS[:, :1], "depth"),
    "normals": Media(PIXELS * 2 - 1, "normals"),
    "embedding": Media(SOUNDS[:, 0], "embedding"),
    "text": Media(["a", "b", "c"], "text"),
    "mesh": Media([mesh(), mesh(2), mesh(3)], "mesh"),
    "latent": Media(PIXELS, "latent"),
}


def same(a: Any, b: Any) -> bool:
    """Whether two data, or two items, hold the same."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mesh):
        return bool((a.vertices == b.vertices).all() and (a.faces == b.faces).all())
    if isinstance(a, Audio):
        return a.sampling_rate == b.sampling_rate and np.array_equal(a.waveform, b.waveform)
    return np.array_equal(getattr(a, "values", a), getattr(b, "values", b))


# ---------------------------------------------------------------- images and videos


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


def test_pixels_that_are_written_tell_images_from_videos() -> None:
    media = Media(PIXELS.clone())
    media.pixels = CLIPS
    assert media.is_video
    assert isinstance(media[0], list)


# ---------------------------------------------------------------- every kind


def test_there_is_one_of_each() -> None:
    assert set(OF_EACH_KIND) == set(KINDS)
    assert {kind: media.kind for kind, media in OF_EACH_KIND.items()} == {kind: kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_slices_copies_and_joins_keep_kind_and_content(kind: str) -> None:
    media = OF_EACH_KIND[kind]
    n = len(media)
    order = [n - 1, 0]
    for found, places in (
        (media.rows(order), order),
        (media[1:], range(1, n)),
        (cat_media([media[:1], media[1:]]), range(n)),
        (media.copied(), range(n)),
        (OwnMedia(media), range(n)),
    ):
        assert (found.kind, found.sampling_rate, len(found)) == (kind, media.sampling_rate, len(places))
        assert all(same(found[i], media[place]) for i, place in enumerate(places))
        assert same(found.data[0], media.data[places[0]])
    with pytest.raises(IndexError):
        media[n]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_verifier_writes_is_seen_by_nobody_else(kind: str) -> None:
    media, wanted = OF_EACH_KIND[kind], OF_EACH_KIND[kind].copied()
    own = OwnMedia(media)
    if isinstance(own.data, torch.Tensor):
        own.data.zero_()
    elif kind == "mesh":
        own.data[0].vertices[:] = 0  # type: ignore[union-attr]
    else:
        own.data[0] = "other"
    assert same(media.data, wanted.data)
    items = list(media)
    if kind == "audio":
        items[0].waveform[:] = 0  # type: ignore[union-attr]
    elif isinstance(items[0], Map | Vector):
        items[0].values[:] = 0
    assert same(media.data, wanted.data)


def test_items() -> None:
    audio = OF_EACH_KIND["audio"][1]
    assert isinstance(audio, Audio)
    assert (audio.waveform.dtype, audio.waveform.shape, audio.sampling_rate) == (np.float32, (2, 40), 8000)
    assert audio.seconds == 40 / 8000
    assert np.array_equal(audio.waveform, SOUNDS[1].numpy())
    depth, normals, vector = (OF_EACH_KIND[kind][0] for kind in ("depth", "normals", "embedding"))
    assert isinstance(depth, Map)
    assert depth.values.shape == (4, 5)
    assert isinstance(normals, Map)
    assert np.array_equal(normals.values, (PIXELS[0] * 2 - 1).movedim(0, -1).numpy())
    assert isinstance(vector, Vector)
    assert vector.values.shape == (40,)
    assert OF_EACH_KIND["text"][2] == "c"


def test_names_of_the_tensor() -> None:
    assert torch.equal(OF_EACH_KIND["audio"].waveforms, SOUNDS)
    for kind, media in OF_EACH_KIND.items():
        for name, has in (
            ("pixels", kind in OF_PIXELS),
            ("waveforms", kind == "audio"),
            ("tensor", kind not in ("text", "mesh")),
        ):
            assert hasattr(media, name) == has
    with pytest.raises(AttributeError, match=r"audio have no pixels: use \.data"):
        OF_EACH_KIND["audio"].pixels  # noqa: B018


def test_arrays_of_other_kinds() -> None:
    assert np.asarray(OF_EACH_KIND["audio"]).shape == (3, 2, 40)
    assert np.asarray(OF_EACH_KIND["depth"]).dtype == np.float32
    assert np.asarray(OF_EACH_KIND["text"]).tolist() == ["a", "b", "c"]
    with pytest.raises(TypeError, match="meshes"):
        np.asarray(OF_EACH_KIND["mesh"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((SOUNDS, "audio"), "sampling rate of None"),
        ((SOUNDS, "audio", 0), "sampling rate of 0"),
        ((PIXELS, "image", 8000), "sampling rate of 8000 does not go with images"),
        ((SOUNDS[0], "audio", 8000), r"audio must be \[n, channels, samples\], not \[2, 40\]"),
        ((PIXELS, "depth"), r"\[n, 1, h, w\]"),
        ((PIXELS[:, :2], "normals"), r"\[n, 3, h, w\]"),
        ((SOUNDS[0, 0], "embedding"), r"\[n, \.\.\.\]"),
        ((SOUNDS, "text"), "text must be a list of str"),
        ((["a", 1], "text"), "text must be a list of str"),
        ((["a"], "mesh"), "meshes must be a list of Mesh"),
        ((["a"], "image"), "images must be a tensor, not list"),
        ((PIXELS, "smell"), "kind 'smell' is unknown"),
    ],
)
def test_data_that_does_not_fit_its_kind(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Media(*arguments)


def test_numbers_that_are_not_finite_are_found_in_every_kind() -> None:
    sounds = SOUNDS.clone()
    sounds[1, 0, 3], sounds[2, 1, 0] = float("nan"), float("inf")
    assert media_faults(Media(sounds, "audio", 8000)) == {1: "NaN", 2: "infinite values"}
    assert media_faults(Media([mesh(), mesh(float("nan"))], "mesh")) == {1: "NaN"}
    assert [media_faults(media) for media in OF_EACH_KIND.values()] == [{}] * len(KINDS)
