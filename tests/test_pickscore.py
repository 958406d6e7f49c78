"""PickScore on a tiny CLIPModel of random weights, against its formula on transformers' own outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.clip import Clip
from genscale.verifiers.pickscore import PickScore
from tests.test_verifiers import PROMPTS, clip_folder, noise, tokenizer

SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = clip_folder(tmp_path_factory.mktemp("pick"))
    model = CLIPModel.from_pretrained(where)
    model.logit_scale.data.fill_(3.0)  # unlike the default, or a constant in its place would pass
    model.save_pretrained(where)
    return where


def test_the_score_is_the_published_formula(folder: Path) -> None:
    pictures = noise(5, 3, SIDE, SIDE)
    model = CLIPModel.from_pretrained(folder).eval()
    words = CLIPProcessor.from_pretrained(folder).tokenizer(PROMPTS, padding="max_length", max_length=12)
    prepare = CLIPImageProcessor.from_pretrained(folder)
    mean, std = (torch.tensor(it).view(3, 1, 1) for it in (prepare.image_mean, prepare.image_std))
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(words.input_ids), pixel_values=(pictures - mean) / std
        ).logits_per_image
    found = PickScore(str(folder))(Media(pictures), PROMPTS)
    torch.testing.assert_close(found, logits.diagonal(), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(found, Clip(str(folder))(Media(pictures), PROMPTS), atol=0.01)


def test_order_batches_and_frames(folder: Path) -> None:
    pictures, turned = noise(5, 3, 40, 48), [3, 0, 4, 1, 2]
    whole = PickScore(str(folder))(Media(pictures), PROMPTS)
    apart = PickScore(str(folder), batch_size=2)(Media(pictures[turned]), [PROMPTS[i] for i in turned])
    torch.testing.assert_close(apart, whole[turned], atol=1e-4, rtol=1e-5)
    assert whole.unique().numel() == 5
    clips = PickScore(str(folder)).score_tensor(pictures[None, :4], PROMPTS[:1])
    frames = PickScore(str(folder)).score_tensor(pictures[:4], PROMPTS[:1] * 4)
    torch.testing.assert_close(clips, frames.mean(0, keepdim=True), atol=1e-4, rtol=1e-5)


def test_gradients_reach_the_pixels_and_raise_the_score(folder: Path) -> None:
    verifier, pixels = PickScore(str(folder)), noise(2, 3, 40, 40).requires_grad_()
    before = verifier.score_tensor(pixels, PROMPTS[:2])
    (slope,) = torch.autograd.grad(before.sum(), pixels)
    assert bool((slope.flatten(1).norm(dim=1) > 0).all())
    step = 1e-3 * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert bool((verifier.score_tensor(pixels.detach() + step, PROMPTS[:2]) > before).all())


def test_the_processor_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    CLIPModel.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    settings = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPProcessor(CLIPImageProcessor(**settings), tokenizer(tmp_path / "words")).save_pretrained(
        tmp_path / "processor"
    )
    media = Media(noise(5, 3, 40, 40))
    apart = PickScore(str(tmp_path / "bare"), str(tmp_path / "processor"))(media, PROMPTS)
    torch.testing.assert_close(apart, PickScore(str(folder))(media, PROMPTS))


def test_what_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        PickScore(str(tmp_path / "nothing")).load()
