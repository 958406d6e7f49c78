"""Consistency, flicker and warping errors of videos, against their formulas and the libraries they rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.clip import SHAPES_CLIP, Clip
from genscale.verifiers.differentiable import Differentiable
from genscale.verifiers.frame_similarity import BackgroundConsistency, SubjectConsistency, frame_similarity
from genscale.verifiers.optical_flow import OpticalFlow, visible, warp
from genscale.verifiers.temporal_flickering import TemporalFlickering
from genscale.verifiers.warp_error import WarpError, warping_errors
from tests.test_verifiers import EXACT, noise, randomise, smooth

SIDE, CPU = 32, torch.device("cpu")


# ---------------------------------------------------------------- tiny image models


def vit(folder: Path) -> Any:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = ViTModel(ViTConfig(**size, image_size=SIDE, patch_size=8), add_pooling_layer=False)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model


def dinov2(folder: Path) -> Any:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    size = {"hidden_size": 32, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Dinov2Model(Dinov2Config(**size, image_size=SIDE, patch_size=8))
    crop = {"height": SIDE, "width": SIDE}
    BitImageProcessor(size={"shortest_edge": SIDE + 8}, crop_size=crop).save_pretrained(folder)
    return model


def resnet(folder: Path) -> Any:
    from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

    model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model


KINDS = {"vit": vit, "dinov2": dinov2, "resnet": resnet}


def saved(kind: str, folder: Path) -> tuple[str, Any]:
    torch.manual_seed(0)
    model = KINDS[kind](folder)
    randomise(model)
    model.save_pretrained(folder)
    return str(folder), model.eval()


def reference(kind: str, model: Any, folder: str, pixels: Tensor) -> Tensor:
    """Unit embeddings as transformers itself has them."""
    from transformers import AutoImageProcessor

    inputs = AutoImageProcessor.from_pretrained(folder)(list(pixels), return_tensors="pt", do_rescale=False)
    with torch.no_grad():
        out = model(**inputs)
    embedding = out.pooler_output.flatten(1) if kind == "resnet" else out.last_hidden_state[:, 0]
    return F.normalize(embedding, dim=-1)


def by_loops(embeddings: Tensor) -> Tensor:
    videos = []
    for frames in embeddings:
        pairs = [
            (float(frames[i] @ frames[i - 1]) + float(frames[i] @ frames[0])) / 2
            for i in range(1, len(frames))
        ]
        videos.append(sum(pairs) / len(pairs))
    return torch.tensor(videos)


@pytest.mark.parametrize("kind", KINDS)
def test_subject_consistency_compares_with_the_frame_before_and_the_first(kind: str, tmp_path: Path) -> None:
    folder, model = saved(kind, tmp_path)
    video = smooth(8, 40, 48).view(2, 4, 3, 40, 48)
    expected = by_loops(reference(kind, model, folder, video.flatten(0, 1)).view(2, 4, -1))
    found = SubjectConsistency(folder)(Media(video))
    assert expected.max() < 1 - 1e-3
    torch.testing.assert_close(found, expected, atol=10 * EXACT, rtol=0)
    for batch_size in (1, 3):  # neither batch size nor company matters
        again = SubjectConsistency(folder, batch_size=batch_size)(Media(video.flip(0)))
        torch.testing.assert_close(again.flip(0), found, atol=10 * EXACT, rtol=0)


def test_background_consistency_is_the_same_by_clip() -> None:
    video = noise(2 * 4, 3, SIDE, SIDE).view(2, 4, 3, SIDE, SIDE)
    expected = by_loops(Clip(str(SHAPES_CLIP)).embed(video))
    torch.testing.assert_close(BackgroundConsistency(str(SHAPES_CLIP), None)(Media(video)), expected)


def test_a_scene_that_drifts_away_loses_though_neighbours_are_alike() -> None:
    angles = torch.linspace(0, 1.5, 8)
    drift = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
    back = drift[:, [0, 1, 2, 3, 3, 2, 1, 0]]
    neighbours = (drift[:, 1:] * drift[:, :-1]).sum(-1).mean()
    assert frame_similarity(drift) < frame_similarity(back) < 1
    assert frame_similarity(drift) < neighbours - 0.1


def test_an_image_model_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images and texts"):
        SubjectConsistency(str(SHAPES_CLIP)).load()
    with pytest.raises(UsageError, match="give the folder of an image model"):
        SubjectConsistency(str(tmp_path)).load()


def test_an_image_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = saved("dinov2", tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    del state[next(name for name in state if name.endswith("mlp.fc1.weight"))]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="1 of its weights are missing"):
        SubjectConsistency(folder).load()


# ---------------------------------------------------------------- flicker


def test_flicker_is_that_of_vbench_on_8_bit_frames() -> None:
    video = noise(2 * 5, 3, 8, 8).view(2, 5, 3, 8, 8)
    eight_bit = (video * 255).round().to(torch.int64)
    mean = (eight_bit[:, 1:] - eight_bit[:, :-1]).abs().double().flatten(1).mean(1)
    expected = ((255 - mean) / 255).float()
    torch.testing.assert_close(TemporalFlickering()(Media(video)), expected)


# ---------------------------------------------------------------- optical flow


def shifted(image: Tensor, right: int, down: int) -> Tensor:
    return image.roll((down, right), (-2, -1))


def constant(x: float, y: float, side: int = SIDE) -> Tensor:
    return torch.tensor([float(x), float(y)]).view(1, 2, 1, 1).expand(1, 2, side, side).clone()


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-4, 5)])
def test_a_picture_that_moves_along_the_flow_has_no_error(right: int, down: int) -> None:
    one = noise(1, 3, SIDE, SIDE)
    other = shifted(one, right, down)
    there, back = constant(right, down), constant(-right, -down)
    assert float(warping_errors(one, other, there, back)) < 1e-9
    wrong = constant(right + 1, down)
    assert float(warping_errors(one, other, wrong, -wrong)) > 0.1  # the twin that must fail


def test_half_a_pixel_is_read_between_two() -> None:
    ramp = torch.arange(SIDE).float().expand(1, 1, SIDE, SIDE)
    moved = warp(ramp, constant(0.5, 0.25))
    torch.testing.assert_close(moved[..., :-1], ramp[..., :-1] + 0.5)
    torch.testing.assert_close(moved[..., -1], ramp[..., -1])  # the border


def test_what_is_seen_in_both_frames_by_loops() -> None:
    there, back = (4 * noise(2, 2, 9, 9, seed=seed) - 2 for seed in (1, 2))
    warped = warp(back, there)
    expected = torch.zeros(2, 9, 9, dtype=torch.bool)
    for n in range(2):
        for y in range(9):
            for x in range(9):
                u, v = (float(a) for a in there[n, :, y, x])
                s, t = (float(a) for a in warped[n, :, y, x])
                gap, size = (u + s) ** 2 + (v + t) ** 2, u * u + v * v + s * s + t * t
                inside = 0 <= x + u <= 8 and 0 <= y + v <= 8
                expected[n, y, x] = inside and gap <= 0.01 * size + 0.5
    assert expected.any()
    assert not expected.all()
    assert torch.equal(visible(there, back), expected)


def test_a_cut_counts_though_nothing_is_seen_in_both() -> None:
    one, other = noise(2, 3, SIDE, SIDE).split(1)
    there = constant(9, 0)
    assert not visible(there, there).any()  # away, and further away
    expected = ((one - warp(other, there)) ** 2).sum(1).mean()
    torch.testing.assert_close(warping_errors(one, other, there, there)[0], expected)


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    network, file = raft_small(weights=None).eval(), tmp_path_factory.mktemp("raft") / "raft.pth"
    torch.save(network.state_dict(), file)
    return str(file), network


def test_warp_error_is_the_mean_over_pairs(raft: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    file, network = raft
    monkeypatch.setattr("genscale.verifiers.optical_flow.UPDATES", 2)
    video = smooth(2 * 3, 128, 136).view(2, 3, 3, 128, 136)
    expected = torch.zeros(2)
    with torch.no_grad():
        for n in range(2):
            for i in range(2):
                one, other = video[n, i][None], video[n, i + 1][None]
                flows = [network(2 * a - 1, 2 * b - 1, 2)[-1] for a, b in ((one, other), (other, one))]
                expected[n] -= warping_errors(one, other, *flows)[0] / 2
    for batch_size in (1, 8):
        found = WarpError("raft_small", file, batch_size=batch_size)(Media(video))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


class Pixels(torch.nn.Module):
    """A network that sees everything move by 8 and -16 of the pixels that it is given."""

    def forward(self, one: Tensor, other: Tensor, num_flow_updates: int) -> list[Tensor]:
        assert min(one.shape[-2:]) >= 128
        assert all(side % 8 == 0 for side in one.shape[-2:])
        assert one.abs().max() <= 1 + 1e-5
        return [constant(8, -16, 1).expand(len(one), 2, *one.shape[-2:])]


@pytest.mark.parametrize(("height", "width"), [(128, 256), (64, 64), (50, 99), (300, 203)])
def test_flow_is_in_pixels_of_the_frames_whatever_the_network_takes(height: int, width: int) -> None:
    flow = OpticalFlow(Pixels(), CPU)(noise(2, 3, height, width), noise(2, 3, height, width))
    assert flow.shape == (2, 2, height, width)
    grow = max(1, 128 / min(height, width))
    expected = torch.tensor([8 / grow, -16 / grow]).view(1, 2, 1, 1).expand_as(flow)
    torch.testing.assert_close(flow, expected, rtol=0.06, atol=0)  # sides are rounded to multiples of 8


def test_the_gradient_of_the_warping_error_is_that_of_a_fixed_flow(raft: tuple[str, Any]) -> None:
    verifier = WarpError("raft_small", raft[0])
    pixels = smooth(1 * 2, 128, 128).view(1, 2, 3, 128, 128).requires_grad_()
    (found,) = torch.autograd.grad(verifier.score_tensor(pixels).sum(), pixels)
    flow = verifier._model(CPU)
    one, other = pixels[:, 0], pixels[:, 1]
    there, back = flow(one.detach(), other.detach()), flow(other.detach(), one.detach())
    (expected,) = torch.autograd.grad(-warping_errors(one, other, there, back).sum(), pixels)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("verifier", [TemporalFlickering(), BackgroundConsistency(str(SHAPES_CLIP), None)])
def test_a_still_video_has_the_largest_score_and_images_are_refused(verifier: Differentiable) -> None:
    still = noise(1, 3, SIDE, SIDE).expand(4, 3, SIDE, SIDE)
    clips = torch.stack([still, noise(4, 3, SIDE, SIDE, seed=3)])
    scores = verifier(Media(clips))
    assert float(scores[0]) == pytest.approx(1, abs=1e-5)
    assert scores[1] < scores[0] - 1e-3
    with pytest.raises(UsageError, match="compares frames"):
        verifier(Media(still))


@pytest.mark.parametrize("given", [{"network": "raft"}, {"weights": "none.pth"}, {"batch_size": 0}])
def test_what_cannot_find_a_flow_is_refused_in_a_sentence(given: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match=r"choose one of raft_large|give a file|download a file|give at least 1"
    ):
        WarpError(**given).load()
