"""The learned verifiers on tiny models with random weights, against the libraries they come from."""

from __future__ import annotations

import copy
import gc
import json
import string
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPVisionModel,
)

from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import registry
from genscale.toy.shapes import CATEGORIES, render, sample_requirement, sample_scene
from genscale.verifiers import clip as clip_module
from genscale.verifiers.aesthetic import FILES, HUB, Aesthetic, fold
from genscale.verifiers.clip import Clip, ShapesClip
from genscale.verifiers.clip_checkpoints import choose
from genscale.verifiers.clip_image import Preparation, from_open_clip
from genscale.verifiers.compressibility import Compressibility

SIDE, LENGTH, WIDTH = 32, 12, 16  # of the tiny models: image, tokens, embedding
PROMPTS = ["a red cat", "two dogs", "a red cat", "", "blue"]
EXACT = 2e-6  # cosines in float32, the same arithmetic in another order
ROUNDED = 0.02  # cosines where one side rounds pixels to 8 bits: these random towers magnify half a level
FLOATS = ROUNDED if transformers.__version__.startswith("4.") else EXACT  # version 4 rounds floats, too


# ---------------------------------------------------------------- tiny models


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights large enough that images and texts differ in their embeddings."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (1.5 / fan**0.5)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters as tokens."""
    letters = string.ascii_lowercase
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH, **special)


def clip_folder(folder: Path, **processor: Any) -> Path:
    """A CLIPModel with its processor, saved as a hub would hold it."""
    torch.manual_seed(0)  # what `randomise` leaves alone must not depend on the tests before
    words = tokenizer(folder / "words")
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": WIDTH,
    }
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = tower | ids | {"vocab_size": len(words), "max_position_embeddings": LENGTH}
    vision = tower | {"image_size": SIDE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    randomise(model)
    model.save_pretrained(folder)
    settings = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}} | processor
    CLIPProcessor(CLIPImageProcessor(**settings), words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(clip_folder(tmp_path_factory.mktemp("clip")))


OPEN_CLIP = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": LENGTH, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def open_clip_model(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    model = open_clip.CLIP(**copy.deepcopy(OPEN_CLIP | changes))
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("open_clip") / "weights.pt"
    torch.save(open_clip_model().state_dict(), file)
    return file


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip knows the tiny model under a name."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-Tiny", OPEN_CLIP)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


# ---------------------------------------------------------------- images


def noise(n: int, *shape: int, seed: int = 1) -> Tensor:
    """Images of whole levels of 255, so that PIL sees the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator).float() / 255


def smooth(n: int, height: int, width: int, low: float = 0.2, high: float = 0.8) -> Tensor:
    """Images whose resizing overshoots nowhere."""
    coarse = low + (high - low) * noise(n, 3, 4, 4)
    big = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    return (big * 255).round() / 255


def drawn(n: int, side: int) -> Tensor:
    """Black on white with hard edges."""
    return F.interpolate((noise(n, 3, side // 8, side // 8) > 0.4).float(), size=side)


def reference(folder: str, images: list[Any], prompts: list[str], **options: Any) -> Tensor:
    """The cosine as transformers itself has it."""
    processor, model = CLIPProcessor.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    texts = {"padding": True, "truncation": True, "max_length": LENGTH}
    inputs = processor(text=prompts, images=images, return_tensors="pt", **texts, **options)
    with torch.no_grad():
        out = model(**inputs)
    return (out.image_embeds * out.text_embeds).sum(-1)


# ---------------------------------------------------------------- Clip on transformers


def test_it_is_the_cosine_of_transformers(tiny: str) -> None:
    media = Media(noise(5, 3, SIDE, SIDE))
    scores = Clip(tiny)(media, PROMPTS)
    assert scores.dtype == torch.float32
    assert scores.std() > 0.05
    torch.testing.assert_close(scores, reference(tiny, list(media), PROMPTS), atol=EXACT, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (47, 83), (83, 47), (70, 37), (20, 25), (32, 35)])
def test_resizing_and_cutting_are_those_of_transformers_on_floats(tiny: str, height: int, width: int) -> None:
    pixels = smooth(5, height, width)
    expected = reference(tiny, list(pixels), PROMPTS, do_rescale=False)
    torch.testing.assert_close(Clip(tiny)(Media(pixels), PROMPTS), expected, atol=FLOATS, rtol=0)


@pytest.mark.parametrize("pixels", [smooth(5, 61, 48), noise(5, 3, 61, 48), drawn(5, 64)])
def test_eight_bit_pictures_score_nearly_the_same(tiny: str, pixels: Tensor) -> None:
    media = Media(pixels)
    difference = Clip(tiny)(media, PROMPTS) - reference(tiny, list(media), PROMPTS)
    assert difference.abs().max() < ROUNDED


def test_overshoot_is_cut_off_as_in_eight_bits_but_gradients_pass() -> None:
    prepare = Preparation((SIDE, SIDE), (SIDE, SIDE), (0.0,) * 3, (1.0,) * 3)
    pixels = drawn(1, 72).requires_grad_()
    x = prepare(pixels)
    uncut = F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True)
    picture = Media(pixels)[0].resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    eight_bit = torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255
    cut_off, left = ((y - eight_bit).abs().mean() for y in (x, uncut))
    assert cut_off < 0.5 / 255
    assert left > 5 * cut_off
    (gradient,) = torch.autograd.grad(x.sum(), pixels)
    (whole,) = torch.autograd.grad(uncut.sum(), pixels)
    torch.testing.assert_close(gradient, whole)


def test_a_checkpoint_may_squash_and_have_its_own_mean(tmp_path: Path) -> None:
    square = {"height": SIDE, "width": SIDE}
    own = {"size": square, "crop_size": square, "do_center_crop": False}
    folder = str(clip_folder(tmp_path, **own, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2))
    pixels = smooth(5, 40, 64)
    expected = reference(folder, list(pixels), PROMPTS, do_rescale=False)
    torch.testing.assert_close(Clip(folder)(Media(pixels), PROMPTS), expected, atol=FLOATS, rtol=0)


def test_neither_batch_size_nor_order_nor_company_matters(tiny: str) -> None:
    pixels, order = noise(5, 3, 40, 40), [3, 0, 4, 1, 2]
    scores = Clip(tiny)(Media(pixels), PROMPTS)
    for size in (1, 2, 5):
        other = Clip(tiny, batch_size=size)(Media(pixels[order]), [PROMPTS[i] for i in order])
        torch.testing.assert_close(other, scores[order], atol=EXACT, rtol=0)


def test_clips_score_the_mean_of_their_frames(tiny: str) -> None:
    frames = noise(3, 4, 3, 40, 40)
    clip = Clip(tiny, batch_size=5)
    each = clip(Media(frames.flatten(0, 1)), [p for p in PROMPTS[:3] for _ in range(4)])
    scores = clip(Media(frames), PROMPTS[:3])
    torch.testing.assert_close(scores, each.view(3, 4).mean(1), atol=EXACT, rtol=0)


def test_a_prompt_is_encoded_once_and_a_batch_is_bounded(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Clip(tiny, batch_size=2)
    tower = clip._model(torch.device("cpu"))
    texts: list[int] = []
    images: list[int] = []
    encode_tokens, encode_images = tower.encode_tokens, tower.encode_images
    monkeypatch.setattr(tower, "encode_tokens", lambda ids: (texts.append(len(ids)), encode_tokens(ids))[1])
    monkeypatch.setattr(tower, "encode_images", lambda x: (images.append(len(x)), encode_images(x))[1])
    for _ in range(2):
        clip(Media(noise(5, 3, SIDE, SIDE)), PROMPTS)
    assert texts == [4]
    assert images == [2, 2, 1] * 2


def test_remembered_prompts_are_bounded(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genscale.verifiers.clip_towers.REMEMBERED", 2)
    clip, media = Clip(tiny), Media(noise(5, 3, SIDE, SIDE))
    torch.testing.assert_close(
        clip(media, PROMPTS), reference(tiny, list(media), PROMPTS), atol=EXACT, rtol=0
    )
    assert len(clip._model(torch.device("cpu"))._texts) == 2


def test_a_prompt_that_is_cut_warns_once(tmp_path: Path) -> None:
    clip, media = Clip(str(clip_folder(tmp_path))), Media(noise(1, 3, SIDE, SIDE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = clip(media, ["abcdefghij"])  # with its beginning and end exactly what the tower reads
    with pytest.warns(UserWarning, match="reads 12 tokens of a prompt: the end of 'abcdefghijx") as caught:
        cut, other = (clip(media, [text]) for text in ("abcdefghijx", "abcdefghijy"))
    assert len(caught) == 1
    assert torch.equal(cut, other)
    assert not torch.equal(cut, full)


def test_gradients_are_those_of_transformers(tiny: str) -> None:
    pixels = noise(3, 3, SIDE, SIDE).requires_grad_()
    (gradient,) = torch.autograd.grad(Clip(tiny).score_tensor(pixels, PROMPTS[:3]).sum(), pixels)
    images = CLIPImageProcessor.from_pretrained(tiny)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.image_mean, images.image_std))
    texts = CLIPTokenizer.from_pretrained(tiny)(PROMPTS[:3], padding=True, return_tensors="pt")
    out = CLIPModel.from_pretrained(tiny).eval()(pixel_values=(pixels - mean) / std, **texts)
    (expected,) = torch.autograd.grad((out.image_embeds * out.text_embeds).sum(), pixels)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(gradient, expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("backend", ["transformers", "open_clip"])
def test_gradients_work_after_a_first_use_in_inference_mode(
    tmp_path: Path, weights: Path, backend: str
) -> None:
    folder = clip_folder(tmp_path) if backend == "transformers" else open_clip_folder(tmp_path, weights)
    clip = Clip(str(folder))
    with torch.inference_mode():
        clip(Media(noise(2, 3, SIDE, SIDE)), PROMPTS[:2])
    pixels = noise(2, 3, SIDE, SIDE).requires_grad_()
    clip.score_tensor(pixels, PROMPTS[:2]).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    module = clip._model(torch.device("cpu")).module
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert not module.training
    assert not clip(Media(pixels), PROMPTS[:2]).requires_grad


def test_half_precision_is_near(tiny: str) -> None:
    media = Media(noise(5, 3, SIDE, SIDE))
    half = Clip(tiny, dtype="bfloat16")(media, PROMPTS)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, Clip(tiny)(media, PROMPTS), atol=0.03, rtol=0)


def test_weights_are_shared_by_equal_settings_and_freed_with_the_last(tmp_path: Path) -> None:
    folder, cpu = str(clip_folder(tmp_path)), torch.device("cpu")
    one, other = Clip(folder), Clip(folder, batch_size=3)
    tower = one._model(cpu)
    assert other._model(cpu) is tower
    assert Clip(folder, dtype="bfloat16")._model(cpu) is not tower
    copied = copy.deepcopy(one)
    assert copied == one
    assert not set(vars(copied)) - {field.name for field in fields(one)}
    module = tower.module
    del one, other, tower
    gc.collect()
    assert Clip(folder)._model(cpu).module is not module


def test_the_number_of_prompts_must_be_that_of_the_pictures(tiny: str) -> None:
    with pytest.raises(ValueError, match="5 images and 4 prompts"):
        Clip(tiny)(Media(noise(5, 3, SIDE, SIDE)), PROMPTS[:4])


# ---------------------------------------------------------------- Clip on open_clip


def transform(fit: str = "shortest") -> Any:
    """open_clip's preprocessing of a PIL image."""
    settings = open_clip.transform.PreprocessCfg(size=SIDE, resize_mode=fit)
    return open_clip.transform.image_transform_v2(settings, is_train=False)


def open_clip_reference(model: nn.Module, media: Media) -> Tensor:
    """The cosine as open_clip itself has it."""
    prepare = transform()
    words = open_clip.tokenizer.SimpleTokenizer(context_length=LENGTH)
    with torch.no_grad():
        images = model.encode_image(torch.stack([prepare(item) for item in media]), normalize=True)
        texts = model.encode_text(words(PROMPTS), normalize=True)
    return (images * texts).sum(-1)


def open_clip_folder(folder: Path, weights: Path) -> str:
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP, "preprocess_cfg": {}}))
    save_file(torch.load(weights, weights_only=True), folder / "open_clip_model.safetensors")
    return str(folder)


@pytest.mark.usefixtures("named")
def test_it_is_the_cosine_of_open_clip(weights: Path, tmp_path: Path) -> None:
    safe = tmp_path / "weights.safetensors"
    save_file(torch.load(weights, weights_only=True), safe)
    folder = open_clip_folder(tmp_path, weights)
    media = Media(noise(5, 3, SIDE, SIDE))
    expected = open_clip_reference(open_clip_model(), media)
    assert expected.std() > 0.05
    sources = [("ViT-Tiny", str(weights)), ("ViT/Tiny", str(weights)), ("ViT-Tiny", str(safe))]
    for model, file in [*sources, (folder, None), (f"local-dir:{folder}", "openai")]:
        clip = Clip(model, file, backend="open_clip")
        torch.testing.assert_close(clip(media, PROMPTS), expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("fit", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (61, 90), (90, 61), (32, 35), (39, 32), (20, 24), (24, 20)]
)
def test_resizing_and_cutting_are_those_of_open_clip(height: int, width: int, fit: str) -> None:
    media, theirs = Media(smooth(5, height, width)), transform(fit)
    settings = asdict(open_clip.transform.PreprocessCfg(size=SIDE, resize_mode=fit))
    prepared = from_open_clip(settings)(media.pixels)
    expected = torch.stack([theirs(item) for item in media])
    difference = (prepared - expected).abs().amax((0, 2, 3)) * torch.tensor(settings["std"])
    assert difference.max() < 1.5 / 255  # PIL rounds twice; one pixel aside is 5 levels


@pytest.mark.usefixtures("named")
def test_the_activation_is_the_one_the_weights_were_trained_with(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip 3 builds ViT-L-14 with GELU for OpenAI's QuickGELU weights, and only warns."""
    tag = open_clip.pretrained._pcfg(quick_gelu=True) | {"file": str(weights)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-Tiny", {"quick": tag})
    media = Media(noise(5, 3, SIDE, SIDE))
    expected, wrong = (
        open_clip_reference(open_clip_model(quick_gelu=quick), media) for quick in (True, False)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = Clip("ViT-Tiny", "quick")(media, PROMPTS)
    torch.testing.assert_close(scores, expected, atol=EXACT, rtol=0)
    assert (wrong - expected).abs().max() > 100 * EXACT


@pytest.mark.usefixtures("named")
def test_gradients_are_those_of_finite_differences(weights: Path) -> None:
    clip = Clip("ViT-Tiny", str(weights), dtype="float64")
    pixels = smooth(2, 40, 48, 0.3, 0.7).double().requires_grad_()
    scores = clip.score_tensor(pixels, PROMPTS[:2])
    assert scores.dtype == torch.float64
    (gradient,) = torch.autograd.grad(scores.sum(), pixels)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1e-4
    for place in [(0, 0, 20, 24), (1, 2, 5, 30), (0, 1, 39, 10), (1, 1, 0, 40)]:
        step = torch.zeros_like(pixels)
        step[place] = 1e-5
        with torch.no_grad():
            up, down = (clip.score_tensor(pixels + s, PROMPTS[:2]).sum() for s in (step, -step))
        torch.testing.assert_close((up - down) / 2e-5, gradient[place], atol=1e-9, rtol=1e-6)


@pytest.mark.usefixtures("named")
def test_open_clip_warns_of_a_cut_prompt_and_gives_gradients(weights: Path) -> None:
    clip, pixels = Clip("ViT-Tiny", str(weights)), noise(1, 3, 40, 40).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip(Media(pixels), [" ".join("abcdefghij")])
    with pytest.warns(UserWarning, match="reads 12 tokens"):
        clip(Media(pixels), [" ".join("abcdefghijk")])
    clip.score_tensor(pixels, ["a cat"]).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().max() > 1e-4


# ---------------------------------------------------------------- names and refusals


def test_the_library_is_chosen_by_the_look_of_the_name(tiny: str, weights: Path, tmp_path: Path) -> None:
    assert choose(tiny) == choose("openai/clip-vit-large-patch14") == "transformers"
    for name in ("ViT-H-14", "ViT-L/14", "RN50", "hf-hub:laion/CLIP", open_clip_folder(tmp_path, weights)):
        assert choose(name) == "open_clip"


def refusal(make: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 500
    return message


@pytest.mark.usefixtures("named")
def test_names_and_settings_that_are_not_there_are_refused_in_a_sentence(tmp_path: Path) -> None:
    assert "did you mean 'ViT-Tiny'" in refusal(Clip("ViT-Tinny").load)
    assert "no weights 'opnai'" in refusal(Clip("ViT-L-14", "opnai").load)
    assert "did you mean 'openai'" in refusal(Clip("ViT-L-14", "opnai").load)
    assert "needs weights" in refusal(Clip("ViT-Tiny", None).load)
    assert "not a folder with a CLIP" in refusal(Clip("./nothing/here").load)
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    assert "of type 'siglip'" in refusal(Clip(str(tmp_path)).load)
    assert "backend 'tensorflow'" in refusal(lambda: Clip(backend="tensorflow"))
    assert "dtype 'float12'" in refusal(lambda: Clip(dtype="float12"))
    assert "batch_size 0" in refusal(lambda: Clip(batch_size=0))


@pytest.mark.usefixtures("named")
def test_broken_checkpoints_are_refused_in_a_sentence(tiny: str, tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "half")
    CLIPVisionModel.from_pretrained(folder).save_pretrained(folder / "vision")
    (folder / "vision" / "model.safetensors").replace(folder / "model.safetensors")
    assert "weights are missing" in refusal(Clip(str(folder)).load)
    (folder / "model.safetensors").unlink()
    assert "cannot be loaded" in refusal(Clip(str(folder)).load)
    (tmp_path / "wrong.pt").write_bytes(b"nothing of the kind")
    assert "cannot be loaded" in refusal(Clip("ViT-Tiny", str(tmp_path / "wrong.pt")).load)
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    assert "cannot be loaded" in refusal(Clip("ViT-Tiny", str(tmp_path / "other.pt")).load)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP}))
    (tmp_path / "wrong.pt").unlink()
    assert "cannot be loaded" in refusal(Clip(str(tmp_path)).load)


@pytest.mark.usefixtures("offline")
def test_what_a_hub_does_not_give_is_refused_in_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    for model in ("openai/clip-vit-large-patch14", "hf-hub:laion/CLIP"):
        assert "where there is a network" in refusal(Clip(model).load)
    assert "Failed" not in capfd.readouterr().err


def test_shapes_clip_tells_captions_apart() -> None:
    requirements = [sample_requirement(np.random.default_rng(i), CATEGORIES[i % 5]) for i in range(40)]
    scenes = [sample_scene(r, np.random.default_rng(i)) for i, r in enumerate(requirements)]
    media = Media(torch.from_numpy(render(scenes)).movedim(-1, 1) / 255)
    captions = [requirement.text for requirement in requirements]
    right, wrong = (ShapesClip()(media, texts) for texts in (captions, captions[1:] + captions[:1]))
    assert (right > wrong).float().mean() > 0.9
    folder = str(clip_module.SHAPES_CLIP)
    torch.testing.assert_close(right, reference(folder, list(media), captions), atol=EXACT, rtol=0)


def test_shapes_clip_is_a_clip_of_the_package(
    tiny: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert clip_module.SHAPES_CLIP.parts[-3:] == ("genscale", "models", "shapes-clip")
    monkeypatch.setattr(clip_module, "SHAPES_CLIP", Path(tiny))
    media = Media(noise(5, 3, 40, 40))
    verifier = registry.make("verifier", "shapes_clip", {})
    assert verifier.name == "shapes_clip"
    assert torch.equal(verifier(media, PROMPTS), Clip(tiny)(media, PROMPTS))
    assert torch.equal(verifier.score_tensor(media.pixels, PROMPTS), Clip(tiny)(media, PROMPTS))
    monkeypatch.setattr(clip_module, "SHAPES_CLIP", tmp_path / "nothing")
    assert "is missing" in refusal(ShapesClip().load)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "aesthetic",
            "background_consistency",
            "clip",
            "compressibility",
            "dynamic_degree",
            "frames",
            "hps",
        ),
        *("image_reward", "pickscore", "shapes_clip", "subject_consistency", "temporal_consistency"),
        *(
            "temporal_flickering",
            "vqa_score",
            "warp_error",
            "hps3",
            "question_list",
            "unified_reward",
            "vlm_judge",
        ),
    ],
)
def test_verifiers_are_found_by_name_and_load_nothing_before_use(name: str) -> None:
    verifier = registry.make("verifier", name, {})
    assert verifier.name == name
    assert hash(verifier) == hash(copy.deepcopy(verifier))
    assert copy.deepcopy(verifier) == verifier


# ---------------------------------------------------------------- Aesthetic


def head(version: str, width: int = WIDTH) -> nn.Sequential:
    """The published layers, at their published places, of random weights."""
    torch.manual_seed(7)
    if version == "v1":
        return nn.Sequential(nn.Linear(width, 1))
    layers = [nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)]
    layers += [nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)]
    return nn.Sequential(*layers)


def saved(folder: Path, version: str, suffix: str) -> str:
    """The head in a file, by the names that the published files and their copies use."""
    prefix = {("v1", ".pth"): "", ("v1", ".safetensors"): "predictor."}.get((version, suffix), "layers.")
    state = {
        prefix + (key.removeprefix("0.") if version == "v1" else key): value.contiguous()
        for key, value in head(version).state_dict().items()
    }
    path = folder / f"{version}{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state | {"vision_model.layers.0.weight": torch.ones(3, 3)}, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_aesthetic_is_the_published_head_on_unit_embeddings(
    tiny: str, tmp_path: Path, version: str, suffix: str
) -> None:
    media = Media(smooth(5, 40, 50))
    scores = Aesthetic(version, saved(tmp_path, version, suffix), clip=tiny)(media, PROMPTS)
    model = CLIPModel.from_pretrained(tiny).eval()
    inputs = CLIPImageProcessor.from_pretrained(tiny)(
        list(media.pixels), do_rescale=False, return_tensors="pt"
    )
    with torch.no_grad():
        out = model.visual_projection(model.vision_model(**inputs).pooler_output)
        expected = head(version).eval()(out / out.norm(dim=-1, keepdim=True)).squeeze(1)
        forgotten = head(version).eval()(out).squeeze(1)
    assert expected.std() > 0.01
    torch.testing.assert_close(scores, expected, atol=FLOATS, rtol=0)
    assert (forgotten - expected).abs().mean() > 0.01


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_folding_changes_nothing(tmp_path: Path, version: str) -> None:
    weight, bias = fold(Path(saved(tmp_path, version, ".pth")), version)
    x = torch.randn(6, WIDTH, dtype=torch.float64)
    assert weight.shape == (WIDTH,)
    expected = head(version).double().eval()(x).squeeze(1)
    torch.testing.assert_close(x @ weight + bias, expected, atol=1e-13, rtol=1e-12)


def test_aesthetic_takes_clips_and_gives_gradients_and_shares_the_tower(tiny: str, tmp_path: Path) -> None:
    verifier, clip = Aesthetic(head=saved(tmp_path, "v2", ".pth"), clip=tiny), Clip(tiny)
    frames = noise(2, 3, 3, SIDE, SIDE).requires_grad_()
    scores = verifier.score_tensor(frames)
    each = verifier(Media(frames.flatten(0, 1)), [""] * 6)
    torch.testing.assert_close(scores, each.view(2, 3).mean(1), atol=EXACT, rtol=0)
    scores.sum().backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    assert frames.grad.abs().max() > 1e-5
    cpu = torch.device("cpu")
    assert verifier._clip._model(cpu) is clip._model(cpu)


def test_the_head_is_looked_up(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asked = saved(tmp_path, "v2", ".pth"), []

    def download(repository: str, name: str, local_files_only: bool) -> str:
        asked.append((repository, name))
        if local_files_only or len(asked) < 5:
            raise FileNotFoundError
        return file

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    media = Media(noise(2, 3, SIDE, SIDE))
    expected = Aesthetic(head=file, clip=tiny)(media, ["", ""])
    assert torch.equal(Aesthetic(clip=tiny)(media, ["", ""]), expected)
    assert asked == [*HUB["v2"], *HUB["v2"][:2]]
    monkeypatch.setenv("GENSCALE_AESTHETIC_V2", file)
    assert torch.equal(Aesthetic(clip=tiny)(media, ["", ""]), expected)
    assert len(asked) == 5


@pytest.mark.usefixtures("offline")
def test_a_missing_or_other_head_is_refused_in_a_sentence(tiny: str, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        message = refusal(Aesthetic(version, clip=tiny).load)
        assert FILES[version] in message
        assert f"GENSCALE_AESTHETIC_{version.upper()}" in message
    v1 = saved(tmp_path, "v1", ".pth")
    assert "linear layers at [0]" in refusal(Aesthetic("v2", v1, tiny).load)
    assert "there is no aesthetic head" in refusal(Aesthetic(head=str(tmp_path / "no.pth"), clip=tiny).load)
    (tmp_path / "broken.pth").write_bytes(b"nothing of the kind")
    assert "is not an aesthetic head" in refusal(Aesthetic(head=str(tmp_path / "broken.pth"), clip=tiny).load)
    torch.save(head("v1", 2 * WIDTH)[0].state_dict(), tmp_path / "wide.pth")
    wide = Aesthetic("v1", str(tmp_path / "wide.pth"), tiny)
    assert "embeddings of 32 numbers" in refusal(lambda: wide(Media(noise(1, 3, SIDE, SIDE)), [""]))
    assert "version 'v3'" in refusal(lambda: Aesthetic("v3"))


def test_a_head_with_activations_is_refused(tmp_path: Path) -> None:
    """The reluMSE head has the same names, three places apart: folding it would be wrong."""
    state = {f"layers.{place}.weight": torch.ones(1, 1) for place in (0, 3, 6, 9, 11)}
    torch.save(state, tmp_path / "relu.pth")
    assert "heads with activations" in refusal(lambda: fold(tmp_path / "relu.pth", "v2"))


def test_a_pickle_of_a_module_is_not_opened(tmp_path: Path) -> None:
    torch.save(head("v1"), tmp_path / "module.pth")
    assert "UnpicklingError" in refusal(lambda: fold(tmp_path / "module.pth", "v1"))


# ---------------------------------------------------------------- Compressibility


def test_flat_pictures_are_smaller_than_drawn_ones_and_those_than_noise() -> None:
    pixels = torch.cat([torch.full((1, 3, 64, 64), 0.5), drawn(1, 64), noise(1, 3, 64, 64)])
    scores = Compressibility()(Media(pixels), [""] * 3)
    assert scores[0] > scores[1] > scores[2]
    assert torch.equal(Compressibility("incompressible")(Media(pixels), [""] * 3), -scores)
    assert Compressibility(quality=50)(Media(pixels), [""] * 3)[2] > scores[2]


def test_the_score_is_the_size_of_the_file(tmp_path: Path) -> None:
    media = Media(noise(2, 3, 3, 24, 24))
    for index, score in enumerate(Compressibility()(media, ["", ""]).tolist()):
        for frame, picture in enumerate(media[index]):
            picture.save(tmp_path / f"{frame}.jpg", quality=95)
        sizes = [(tmp_path / f"{frame}.jpg").stat().st_size for frame in range(3)]
        assert score == pytest.approx(-sum(sizes) / 3 / 1000, abs=1e-12)


def test_a_direction_or_quality_that_is_none_is_refused() -> None:
    assert "choose one of compressible, incompressible" in refusal(lambda: Compressibility("up"))
    assert "quality 0" in refusal(lambda: Compressibility(quality=0))
