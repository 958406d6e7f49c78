"""Which kind of media a pipeline makes: by its code, by its components, and by what it returns."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import AudioPipelineOutput, ImagePipelineOutput
from torch import nn

from genscale.errors import UsageError
from genscale.media_items import Mesh
from genscale.pipelines.output_kinds import kinds_of_field, main_field, possible_kinds, sampling_rate_of
from genscale.pipelines.output_media import NotPixels, as_media, items_of, length
from tests.quick import quick

DRAW = torch.Generator().manual_seed(0)
PIXELS = torch.rand(2, 3, 4, 5, generator=DRAW)
SOUNDS = torch.randn(2, 30, generator=DRAW)
NORMALS = nn.functional.normalize(torch.randn(2, 3, 4, 5, generator=DRAW), dim=1)
PIPE = SimpleNamespace(components={}, sampling_rate=8000)

BY_CODE = {
    "StableDiffusionPipeline": {"image", "video"},
    "WanPipeline": {"video"},
    "LTX2Pipeline": {"video"},
    "StableAudioPipeline": {"audio"},
    "AudioLDM2Pipeline": {"audio"},
    "AceStepPipeline": {"audio"},
    "MarigoldDepthPipeline": {"depth", "normals", "image"},
    "KandinskyV22PriorPipeline": {"embedding"},
    "StableCascadePriorPipeline": {"embedding"},
    "UniDiffuserPipeline": {"image", "video", "text"},
    "ShapEPipeline": {"image", "video"},
    "KandinskyV22CombinedPipeline": set(),  # it returns what another pipeline returned
}


def bare(name: str) -> Any:
    """A pipeline without its components."""
    import diffusers

    cls = getattr(diffusers, name)
    return cls.__new__(cls)


@pytest.mark.parametrize(
    "name", quick(BY_CODE, ["StableDiffusionPipeline", "StableAudioPipeline", "WanPipeline"])
)
def test_kinds_by_the_code_of_a_pipeline(name: str) -> None:
    if not hasattr(__import__("diffusers"), name):
        pytest.skip("this version of diffusers does not have it")
    assert possible_kinds(bare(name)) == BY_CODE[name]


def test_kinds_of_a_pipeline_of_our_own() -> None:
    class Sings(DiffusionPipeline):  # type: ignore[misc]
        @torch.no_grad()
        def __call__(self) -> Any:
            return AudioPipelineOutput(audios=SOUNDS.numpy())

    class Either(DiffusionPipeline):  # type: ignore[misc]
        def __call__(self, sing: bool) -> Any:
            return AudioPipelineOutput(audios=1) if sing else ImagePipelineOutput(images=[])

    class Silent(DiffusionPipeline):  # type: ignore[misc]
        def __call__(self) -> Any:
            return (SOUNDS,)

    assert possible_kinds(Sings()) == {"audio"}
    assert possible_kinds(Either()) == {"audio", "image", "video"}
    assert possible_kinds(Silent()) == set()


@pytest.mark.parametrize(
    ("field", "kinds"),
    [
        ("audios", {"audio"}),
        ("image_embeds", {"embedding"}),
        ("negative_prompt_embeds", {"embedding"}),
        ("nsfw_content_detected", set()),
        ("rgb", {"image", "video"}),
        ("latent", {"latent"}),
    ],
)
def test_kinds_of_a_field(field: str, kinds: set[str]) -> None:
    assert kinds_of_field(field) == kinds


# ---------------------------------------------------------------- sampling rates


def part(**config: Any) -> nn.Module:
    made = nn.Module()
    made.config = SimpleNamespace(**config)
    return made


@pytest.mark.parametrize(
    ("components", "own", "rate"),
    [
        ({"vae": part(sampling_rate=44100)}, {}, 44100),
        ({"vae": part(sample_rate=24000)}, {}, 24000),
        # A vocoder comes after the autoencoder, and one that raises the rate says both.
        ({"vae": part(sampling_rate=1), "vocoder": part(sampling_rate=16000)}, {}, 16000),
        ({"vocoder": part(sampling_rate=16000, output_sampling_rate=48000)}, {}, 48000),
        ({"audio_vae": part(sample_rate=16000), "vae": part()}, {}, 16000),
        # The processor of a text encoder listens at another rate than the pipeline speaks.
        (
            {"feature_extractor": SimpleNamespace(sampling_rate=48000), "vocoder": part(sampling_rate=16000)},
            {},
            16000,
        ),
        ({"feature_extractor": SimpleNamespace(sampling_rate=48000)}, {"sample_rate": 22050}, 22050),
        ({"feature_extractor": SimpleNamespace(sampling_rate=48000)}, {}, 48000),
        ({"unet": part(sampling_rate=True), "vae": part(sampling_rate="many")}, {}, None),
        ({"vae": None}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_sampling_rate(components: dict[str, Any], own: dict[str, Any], rate: int | None) -> None:
    assert sampling_rate_of(SimpleNamespace(components=components, **own)) == rate


def test_a_sampling_rate_that_nobody_says_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"set pipe\.sampling_rate to the samples a second\.$"):
        as_media({"audios": SOUNDS}, SimpleNamespace(components={}))


# ---------------------------------------------------------------- what is returned


@pytest.mark.parametrize(
    ("output", "kind", "shape"),
    [
        (ImagePipelineOutput(images=PIXELS), "image", (2, 3, 4, 5)),
        ({"images": PIXELS[:, :1]}, "image", (2, 3, 4, 5)),
        ({"frames": PIXELS[None]}, "video", (1, 2, 3, 4, 5)),
        (AudioPipelineOutput(audios=SOUNDS), "audio", (2, 1, 30)),
        (AudioPipelineOutput(audios=SOUNDS.numpy()), "audio", (2, 1, 30)),
        (AudioPipelineOutput(audios=SOUNDS.reshape(1, 2, 30)), "audio", (1, 2, 30)),
        (AudioPipelineOutput(audios=[SOUNDS[0].numpy(), SOUNDS[1].numpy()]), "audio", (2, 1, 30)),
        (AudioPipelineOutput(audios=[SOUNDS]), "audio", (1, 2, 30)),
        ({"sound": SOUNDS}, "audio", (2, 1, 30)),
        ((SOUNDS,), "audio", (2, 1, 30)),  # without a name, of a pipeline that has a sampling rate
        ({"prediction": PIXELS[:, :1]}, "depth", (2, 1, 4, 5)),
        ({"prediction": PIXELS[:, :1].movedim(1, -1).numpy()}, "depth", (2, 1, 4, 5)),
        ({"prediction": NORMALS}, "normals", (2, 3, 4, 5)),
        ({"prediction": NORMALS.abs()}, "normals", (2, 3, 4, 5)),
        ({"prediction": PIXELS, "uncertainty": None}, "image", (2, 3, 4, 5)),
        ({"images": NORMALS.abs()}, "image", (2, 3, 4, 5)),  # the name decides
        ({"image_embeds": SOUNDS, "negative_image_embeds": SOUNDS}, "embedding", (2, 30)),
        ({"latents": PIXELS * 9}, "latent", (2, 3, 4, 5)),
        ({"sequences": torch.zeros(2, 5), "images": PIXELS}, "image", (2, 3, 4, 5)),
        ({"images": None, "audio": SOUNDS}, "audio", (2, 1, 30)),
        ((PIXELS,), "image", (2, 3, 4, 5)),
    ],
)
def test_an_output_as_media(output: Any, kind: str, shape: tuple[int, ...]) -> None:
    media = as_media(output, PIPE)
    assert (media.kind, tuple(media.tensor.shape)) == (kind, shape)
    assert media.sampling_rate == (8000 if kind == "audio" else None)
    assert length(output) == shape[0]


def test_values_stay_as_they_are() -> None:
    for output in ({"audios": SOUNDS}, {"audios": SOUNDS.numpy()}, {"audios": [*SOUNDS]}):
        assert torch.equal(as_media(output, PIPE).tensor[:, 0], SOUNDS)
    broken = SOUNDS.clone()
    broken[0, 3] = float("nan")
    assert as_media({"audios": broken}, PIPE).tensor.isnan().sum() == 1
    assert torch.equal(as_media({"prediction": NORMALS}, PIPE).tensor, NORMALS)


def test_texts_and_meshes() -> None:
    assert as_media({"images": None, "text": ["a", "b"]}, PIPE).data == ["a", "b"]
    decoded = SimpleNamespace(
        verts=torch.eye(3),
        faces=torch.tensor([[0, 1, 2]]),
        vertex_channels=dict.fromkeys("RGB", torch.ones(3) * 2),
    )
    media = as_media({"images": [decoded]}, PIPE)
    assert media.kind == "mesh"
    [found] = media.data
    assert isinstance(found, Mesh)
    assert (found.vertices == np.eye(3)).all()
    assert found.faces.tolist() == [[0, 1, 2]]
    assert found.colours is not None
    assert found.colours.max() == 1


def test_what_is_no_medium_is_refused() -> None:
    with pytest.raises(NotPixels, match=r"outside \[0, 1\]"):
        as_media({"images": PIXELS * 3}, PIPE)
    with pytest.raises(NotPixels, match=r"outside \[0, 1\]"):
        as_media({"prediction": PIXELS * 3}, PIPE)
    with pytest.raises(NotPixels, match="dict instead of pixels"):
        as_media({"images": [{}]}, PIPE)
    with pytest.raises(UsageError, match="sounds of 20 to 30 samples: ask for one length"):
        as_media({"audios": [SOUNDS[0], SOUNDS[1, :20]]}, PIPE)


def test_the_main_field_is_the_first_that_tells_a_kind() -> None:
    output = OrderedDict(sequences=torch.zeros(2), texts=["a"])
    assert main_field(output)[0] == "texts"
    assert main_field({"sequences": 1})[0] == "sequences"
    assert main_field(("x", "y")) == ("", "x")


def test_pictures_of_a_pipeline_stay_as_they_are() -> None:
    from PIL import Image

    image = Image.new("RGB", (4, 3), "red")
    assert items_of({"images": [image]}, PIPE)[0] is image
    assert items_of({"frames": [[image]]}, PIPE)[0][0] is image
    assert items_of({"audios": SOUNDS}, PIPE)[1].waveform.shape == (1, 30)
