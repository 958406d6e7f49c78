"""HPSv2.1 on a tiny open_clip model of random weights, against its formula and its own preprocessing."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.clip import Clip
from genscale.verifiers.hps import Hps
from tests.test_verifiers import OPEN_CLIP, PROMPTS, noise, open_clip_model

SIDE = 32


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-Tiny", OPEN_CLIP)
    where = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": open_clip_model().state_dict(), "epoch": 3}, where)  # nested, as published
    return str(where)


def published(pixels: Tensor, prompts: list[str]) -> Tensor:
    """Long side to the model's, black around, normalise, cosine."""
    model, mean, std = open_clip_model(), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    ratio = SIDE / max(pixels.shape[-2:])
    size = [round(side * ratio) for side in pixels.shape[-2:]]
    x = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    canvas = torch.zeros(len(x), 3, SIDE, SIDE)
    top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    canvas[..., top : top + size[0], left : left + size[1]] = x
    canvas = (canvas - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    words = open_clip.get_tokenizer("ViT-Tiny")(prompts)
    with torch.no_grad():
        return F.cosine_similarity(model.encode_image(canvas), model.encode_text(words))


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (20, 12), (32, 32)])
def test_the_score_is_the_published_formula(file: str, size: tuple[int, int]) -> None:
    pictures = noise(5, 3, *size)
    found = Hps(file, "ViT-Tiny")(Media(pictures), PROMPTS)
    torch.testing.assert_close(found, published(pictures, PROMPTS), atol=1e-5, rtol=0)
    cut = Clip("ViT-Tiny", file, "open_clip")(Media(pictures), PROMPTS)
    assert torch.allclose(found, cut, atol=1e-4) == (size[0] == size[1])  # a CLIP's cut is another score


def test_order_batches_and_frames(file: str) -> None:
    pictures, turned = noise(5, 3, 40, 48), [3, 0, 4, 1, 2]
    whole = Hps(file, "ViT-Tiny")(Media(pictures), PROMPTS)
    apart = Hps(file, "ViT-Tiny", batch_size=2)(Media(pictures[turned]), [PROMPTS[i] for i in turned])
    torch.testing.assert_close(apart, whole[turned], atol=1e-5, rtol=0)
    clips = Hps(file, "ViT-Tiny").score_tensor(pictures[None, :4], PROMPTS[:1])
    frames = Hps(file, "ViT-Tiny").score_tensor(pictures[:4], PROMPTS[:1] * 4)
    torch.testing.assert_close(clips, frames.mean(0, keepdim=True), atol=1e-5, rtol=0)


def test_gradients_reach_the_pixels_and_raise_the_score(file: str) -> None:
    verifier, pixels = Hps(file, "ViT-Tiny"), noise(2, 3, 40, 48).requires_grad_()
    before = verifier.score_tensor(pixels, PROMPTS[:2])
    (slope,) = torch.autograd.grad(before.sum(), pixels)
    assert bool((slope.flatten(1).norm(dim=1) > 0).all())
    step = 1e-2 * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert bool((verifier.score_tensor(pixels.detach() + step, PROMPTS[:2]) > before).all())


def test_what_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        Hps(str(tmp_path / "nothing.pt")).load()
