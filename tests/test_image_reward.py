"""ImageReward on tiny random weights in its original layout, against its formula written out here."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.image_reward import ImageReward
from tests.test_verifiers import noise

SIDE, PATCH, EYE, WORD, LENGTH = 32, 16, 128, 64, 35
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "two", "dogs", "blue"]
PROMPTS = ["a red cat", "two dogs", "a red cat", "", "blue"]
IDS = {"a red cat": [2, 5, 6, 7, 3], "two dogs": [2, 8, 9, 3], "": [2, 3], "blue": [2, 10, 3]}


def linear(state: dict[str, Tensor], name: str, out: int, into: int) -> None:
    state[f"{name}.weight"] = torch.randn(out, into) * into**-0.5
    state[f"{name}.bias"] = torch.randn(out) * 0.1


def norm(state: dict[str, Tensor], name: str, width: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = 1 + torch.randn(width) * 0.1, torch.randn(width) * 0.1


def original() -> dict[str, Tensor]:
    """Weights under the names that ImageReward.pt has, two layers in either tower."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    v, t = "blip.visual_encoder.", "blip.text_encoder."
    state[v + "cls_token"] = torch.randn(1, 1, EYE)
    state[v + "pos_embed"] = torch.randn(1, 1 + (SIDE // PATCH) ** 2, EYE) * 0.5
    state[v + "patch_embed.proj.weight"] = torch.randn(EYE, 3, PATCH, PATCH) / 16
    state[v + "patch_embed.proj.bias"] = torch.randn(EYE) * 0.1
    for i in range(2):
        b = f"{v}blocks.{i}."
        norm(state, b + "norm1", EYE)
        norm(state, b + "norm2", EYE)
        linear(state, b + "attn.qkv", 3 * EYE, EYE)
        linear(state, b + "attn.proj", EYE, EYE)
        linear(state, b + "mlp.fc1", 2 * EYE, EYE)
        linear(state, b + "mlp.fc2", EYE, 2 * EYE)
    norm(state, v + "norm", EYE)
    state[t + "embeddings.position_ids"] = torch.arange(40)[None]
    state[t + "embeddings.word_embeddings.weight"] = torch.randn(len(VOCABULARY) + 2, WORD)
    state[t + "embeddings.position_embeddings.weight"] = torch.randn(40, WORD) * 0.5
    norm(state, t + "embeddings.LayerNorm", WORD)
    for i in range(2):
        b = f"{t}encoder.layer.{i}."
        for part, into in (("attention", WORD), ("crossattention", EYE)):
            linear(state, f"{b}{part}.self.query", WORD, WORD)
            linear(state, f"{b}{part}.self.key", WORD, into)
            linear(state, f"{b}{part}.self.value", WORD, into)
            linear(state, f"{b}{part}.output.dense", WORD, WORD)
            norm(state, f"{b}{part}.output.LayerNorm", WORD)
        linear(state, b + "intermediate.dense", 2 * WORD, WORD)
        linear(state, b + "output.dense", WORD, 2 * WORD)
        norm(state, b + "output.LayerNorm", WORD)
    for place, (out, into) in {0: (48, WORD), 2: (32, 48), 4: (24, 32), 6: (16, 24), 7: (1, 16)}.items():
        linear(state, f"mlp.layers.{place}", out, into)
    linear(state, "blip.vision_proj", 8, EYE)  # there, and used by nobody
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("reward")
    torch.save(original(), where / "ImageReward.pt")
    (where / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return where


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention in heads of 64, written out."""
    q, k, v = (x.unflatten(-1, (-1, 64)).transpose(1, 2) for x in (q, k, v))
    weights = q @ k.transpose(-1, -2) / math.sqrt(64)
    if mask is not None:
        weights = weights - 1e4 * (1 - mask[:, None, None].to(q))
    return (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)


def published(x: Tensor, prompts: list[str], state: dict[str, Tensor]) -> Tensor:
    """The paper's forward of images [n, 3, 32, 32] that need no resizing."""

    def lin(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[name + ".weight"], state[name + ".bias"])

    def ln(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[name + ".weight"], state[name + ".bias"], eps)

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    x = (x - mean) / torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    v, t = "blip.visual_encoder.", "blip.text_encoder."
    h = F.conv2d(x, state[v + "patch_embed.proj.weight"], state[v + "patch_embed.proj.bias"], stride=PATCH)
    h = torch.cat([state[v + "cls_token"].expand(len(x), -1, -1), h.flatten(2).transpose(1, 2)], 1)
    h = h + state[v + "pos_embed"]
    for i in range(2):
        b = f"{v}blocks.{i}."
        q, k, u = lin(b + "attn.qkv", ln(b + "norm1", h, 1e-6)).chunk(3, -1)
        h = h + lin(b + "attn.proj", attention(q, k, u))
        h = h + lin(b + "mlp.fc2", F.gelu(lin(b + "mlp.fc1", ln(b + "norm2", h, 1e-6))))
    seen = ln(v + "norm", h, 1e-6)

    ids = torch.tensor([IDS[p] + [0] * (LENGTH - len(IDS[p])) for p in prompts])
    mask = torch.tensor([[1] * len(IDS[p]) + [0] * (LENGTH - len(IDS[p])) for p in prompts])
    h = state[t + "embeddings.word_embeddings.weight"][ids]
    h = ln(t + "embeddings.LayerNorm", h + state[t + "embeddings.position_embeddings.weight"][:LENGTH], 1e-12)
    for i in range(2):
        b = f"{t}encoder.layer.{i}."
        for part, source, shown in (("attention", None, mask), ("crossattention", seen, None)):
            p, other = b + part, h if source is None else source
            inner = attention(
                lin(p + ".self.query", h), lin(p + ".self.key", other), lin(p + ".self.value", other), shown
            )
            h = ln(p + ".output.LayerNorm", lin(p + ".output.dense", inner) + h, 1e-12)
        inner = lin(b + "output.dense", F.gelu(lin(b + "intermediate.dense", h)))
        h = ln(b + "output.LayerNorm", inner + h, 1e-12)
    head = nn.Sequential(*(nn.Identity() for _ in range(8)))
    raw = h[:, 0]
    for place in range(len(head)):
        if f"mlp.layers.{place}.weight" in state:
            raw = lin(f"mlp.layers.{place}", raw)
    return (raw[:, 0] - 0.16717362830052426) / 1.0333394966054072


def test_the_score_is_the_published_formula(folder: Path) -> None:
    pictures = noise(5, 3, SIDE, SIDE)
    found = ImageReward(str(folder))(Media(pictures), PROMPTS)
    torch.testing.assert_close(found, published(pictures, PROMPTS, original()), atol=2e-5, rtol=1e-5)
    others = ["two dogs", "blue", "", "two dogs", ""]
    assert bool(((found - published(pictures, others, original())).abs() > 1e-3).all())
    assert bool(((found - published(pictures.flip(0), PROMPTS, original())).abs() > 1e-4)[[0, 1, 3, 4]].all())


def test_every_weight_that_is_used_matters(folder: Path, tmp_path: Path) -> None:
    """A mapping that swapped two weights of one shape would pass the shapes, not this."""
    state, pictures = original(), noise(1, 3, SIDE, SIDE)
    for key in (
        "visual_encoder.blocks.1.norm1.bias",
        "text_encoder.encoder.layer.1.crossattention.self.key.bias",
    ):
        state["blip." + key] = state["blip." + key] + torch.randn(state["blip." + key].shape)
    torch.save(state, tmp_path / "other.pt")
    found = ImageReward(str(tmp_path / "other.pt"), str(folder))(Media(pictures), PROMPTS[:1])
    torch.testing.assert_close(found, published(pictures, PROMPTS[:1], state), atol=2e-5, rtol=1e-5)
    assert not torch.allclose(found, published(pictures, PROMPTS[:1], original()), atol=1e-3)


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (20, 16)])
def test_the_short_side_is_resized_and_the_middle_cut(folder: Path, size: tuple[int, int]) -> None:
    pictures = noise(2, 3, *size)
    ratio = SIDE / min(size)
    x = F.interpolate(
        pictures, size=[int(side * ratio) for side in size], mode="bicubic", antialias=True
    ).clamp(0, 1)
    top, left = (round((side - SIDE) / 2) for side in x.shape[-2:])
    expected = published(x[..., top : top + SIDE, left : left + SIDE], PROMPTS[:2], original())
    found = ImageReward(str(folder))(Media(pictures), PROMPTS[:2])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_order_batches_and_frames(folder: Path) -> None:
    pictures, turned = noise(5, 3, 40, 48), [3, 0, 4, 1, 2]
    whole = ImageReward(str(folder))(Media(pictures), PROMPTS)
    apart = ImageReward(str(folder), batch_size=2)(Media(pictures[turned]), [PROMPTS[i] for i in turned])
    torch.testing.assert_close(apart, whole[turned], atol=1e-5, rtol=1e-5)
    clips = ImageReward(str(folder), batch_size=3)(Media(pictures[:4].reshape(2, 2, 3, 40, 48)), PROMPTS[:2])
    words = [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    frames = ImageReward(str(folder))(Media(pictures[:4]), words).reshape(2, 2).mean(1)
    torch.testing.assert_close(clips, frames, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="5 images and 1 prompts"):
        ImageReward(str(folder))(Media(pictures), PROMPTS[:1])


def test_gradients_are_those_of_finite_differences(folder: Path) -> None:
    verifier = ImageReward(str(folder), dtype="float64")
    pixels, way = noise(2, 3, 40, 48).double(), noise(2, 3, 40, 48, seed=2).double() - 0.5
    pixels = 0.25 + pixels / 2  # away from where a cubic kernel's overshoot is cut off
    pixels.requires_grad_()
    (slope,) = torch.autograd.grad(verifier.score_tensor(pixels, PROMPTS[:2]).sum(), pixels)
    with torch.no_grad():
        up, down = (verifier.score_tensor(pixels + h * way, PROMPTS[:2]) for h in (1e-5, -1e-5))
    torch.testing.assert_close((slope * way).flatten(1).sum(1), (up - down) / 2e-5, atol=1e-8, rtol=1e-5)
    assert bool((slope.flatten(1).norm(dim=1) > 1e-3).all())


def test_a_prompt_that_is_cut_warns_once(folder: Path, tmp_path: Path) -> None:
    media = Media(noise(2, 3, SIDE, SIDE))
    torch.save(original(), tmp_path / "w.pt")
    verifier = ImageReward(str(tmp_path / "w.pt"), str(folder))  # weights of its own, that nobody warned of
    fits, longer = " ".join(["red"] * 33), " ".join(["red"] * 34)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verifier(media, [fits, fits])
    with pytest.warns(UserWarning, match="reads 35 tokens"):
        cut = verifier(media, [longer, longer])
    torch.testing.assert_close(cut, verifier(media, [fits, fits]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verifier(media, [longer + " red"] * 2)


def test_weights_are_shared_and_left_behind_by_copies(folder: Path, tmp_path: Path) -> None:
    one, two = ImageReward(str(folder)), ImageReward(str(folder), batch_size=3)
    one.load()
    two.load()
    cpu = torch.device("cpu")
    assert one._models[cpu] is two._models[cpu]
    assert len(pickle.dumps(one)) < 2000
    assert copy.deepcopy(one) == one
    save_file(original(), tmp_path / "ImageReward.safetensors")
    other, media = ImageReward(str(tmp_path), str(folder)), Media(noise(1, 3, SIDE, SIDE))
    assert torch.equal(other(media, ["blue"]), one(media, ["blue"]))
    half = ImageReward(str(folder), dtype="bfloat16")(media, ["blue"])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, one(media, ["blue"]), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    ("lost", "added", "words"),
    [
        ("blip.visual_encoder.blocks.1.norm2.bias", "", "missing"),
        ("blip.text_encoder.encoder.layer.0.crossattention.output.dense.weight", "", "missing"),
        ("mlp.layers.6.bias", "", "cannot be loaded"),
        ("", "blip.visual_encoder.blocks.1.norm3.bias", "something else"),
        ("", "blip.text_encoder.pooler.dense.weight", "something else"),
        ("", "head.weight", "something else"),
    ],
)
def test_missing_and_unexpected_weights_are_refused(
    tmp_path: Path, lost: str, added: str, words: str
) -> None:
    state = original()
    state.pop(lost, None)
    if added:
        state[added] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=words):
        ImageReward(str(tmp_path / "w.pt")).load()


def test_what_is_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        ImageReward(str(tmp_path / "nothing.pt")).load()
    with pytest.raises(UsageError, match=r"has no ImageReward.pt"):
        ImageReward(str(tmp_path)).load()
    torch.save(nn.Linear(2, 2), tmp_path / "ImageReward.pt")
    with pytest.raises(UsageError, match="cannot be loaded"):
        ImageReward(str(tmp_path)).load()
    import huggingface_hub

    def nobody(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", nobody)
    with pytest.raises(UsageError, match=r"cannot be fetched \(OSError at THUDM/ImageReward\)"):
        ImageReward().load()
    with pytest.raises(UsageError, match="batch_size 0"):
        ImageReward(batch_size=0)
