"""clip_flant5 on a tiny checkpoint of random weights, in the published layout, against T5's formulas written out."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.clip_flant5 import ClipFlanT5
from genscale.verifiers.clip_t5 import squared
from tests.test_verifiers import PROMPTS, noise, randomise, smooth
from tests.zoo_parts import t5_tokenizer

SIDE, SEEN, WIDTH, HEADS, INNER, DEPTH, VOCABULARY = 28, 64, 24, 3, 40, 2, 128
CONFIG = {
    "model_type": "clip_t5",
    "architectures": ["CLIPT5ForConditionalGeneration"],
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": WIDTH // HEADS,
    "d_ff": INNER,
    "num_layers": DEPTH,
    "num_heads": HEADS,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "mm_vision_select_layer": -2,
    "mm_hidden_size": SEEN,
    "mm_projector_type": "mlp2x_gelu",
}


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights by the names of the published checkpoint."""
    generator = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    state = {"shared.weight": 2 * made(VOCABULARY, WIDTH), "lm_head.weight": 3 * made(VOCABULARY, WIDTH)}
    for stack, parts in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        for block in range(DEPTH):
            at = f"{stack}.block.{block}.layer"
            for i, part in enumerate(parts):
                for letter in "qkvo":
                    state[f"{at}.{i}.{part}.{letter}.weight"] = made(WIDTH, WIDTH)
                state[f"{at}.{i}.layer_norm.weight"] = 1 + 0.1 * made(WIDTH)
            i = len(parts)
            for name, shape in (("wi_0", (INNER, WIDTH)), ("wi_1", (INNER, WIDTH)), ("wo", (WIDTH, INNER))):
                state[f"{at}.{i}.DenseReluDense.{name}.weight"] = made(*shape)
            state[f"{at}.{i}.layer_norm.weight"] = 1 + 0.1 * made(WIDTH)
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        state[bias] = made(32, HEADS) * 5
        state[f"{stack}.final_layer_norm.weight"] = 1 + 0.1 * made(WIDTH)
    for place, width in ((0, SEEN), (2, WIDTH)):
        state[f"mm_projector.{place}.weight"] = 2 * made(WIDTH, width)
        state[f"mm_projector.{place}.bias"] = made(WIDTH)
    return state


def tower(seed: int) -> CLIPVisionModel:
    torch.manual_seed(seed)
    settings = {"intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = CLIPVisionModel(CLIPVisionConfig(hidden_size=SEEN, image_size=SIDE, patch_size=7, **settings))
    randomise(model, seed)
    return model.eval()


def saved(folder: Path, state: dict[str, Tensor], shards: int = 1, **changes: Any) -> str:
    """A checkpoint with its tokenizer, and the CLIP that it names beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    tower(1).save_pretrained(folder / "eye")
    side = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=side).save_pretrained(folder / "eye")
    t5_tokenizer().save_pretrained(folder)
    config = CONFIG | {"mm_vision_tower": str(folder / "eye")} | changes
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return str(folder)
    places = {key: f"pytorch_model-{i % shards}.bin" for i, key in enumerate(state)}
    for file in set(places.values()):
        torch.save({key: state[key] for key in state if places[key] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("flant5"), weights())


# ---------------------------------------------------------------- T5, written out (Raffel et al. 2020, and T5 1.1)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def bucket(distance: int, both: bool) -> int:
    """The bucket of a key that is `distance` places after the query."""
    count, first = (16, 16 if distance > 0 else 0) if both else (32, 0)
    far = abs(distance) if both else max(-distance, 0)
    if far < count // 2:
        return first + far
    step = math.log(far / (count // 2)) / math.log(128 / (count // 2)) * (count // 2)
    return first + min(count // 2 + int(step), count - 1)


class Written:
    """The encoder and decoder on one sequence, in float64."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {key: value.double() for key, value in state.items()}

    def attention(self, at: str, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            (z @ self.state[f"{at}.{letter}.weight"].T).reshape(len(z), HEADS, -1).transpose(0, 1)
            for letter, z in zip("qkv", (x, y, y), strict=True)
        )
        mixed = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v
        return mixed.transpose(0, 1).reshape(len(x), -1) @ self.state[f"{at}.o.weight"].T

    def bias(self, stack: str, length: int) -> Tensor:
        table = self.state[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        both = stack == "encoder"
        buckets = torch.tensor([bucket(distance, both) for distance in range(-length, length)])
        places = torch.arange(length)
        bias = table[buckets[places - places[:, None] + length]].permute(2, 0, 1)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        return bias if both else bias.masked_fill(later, -math.inf)

    def stack(self, name: str, x: Tensor, encoded: Tensor | None = None) -> Tensor:
        bias, zero = self.bias(name, len(x)), torch.zeros(1, 1, 1, dtype=torch.float64)
        for block in range(DEPTH):
            at, i = f"{name}.block.{block}.layer", 0
            h = norm(x, self.state[f"{at}.0.layer_norm.weight"])
            x = x + self.attention(f"{at}.0.SelfAttention", h, h, bias)
            if encoded is not None:
                i = 1
                h = norm(x, self.state[f"{at}.1.layer_norm.weight"])
                x = x + self.attention(f"{at}.1.EncDecAttention", h, encoded, zero)
            at = f"{at}.{i + 1}"
            h = norm(x, self.state[f"{at}.layer_norm.weight"])
            one, two, out = (self.state[f"{at}.DenseReluDense.{w}.weight"] for w in ("wi_0", "wi_1", "wo"))
            x = x + (F.gelu(h @ one.T, approximate="tanh") * (h @ two.T)) @ out.T
        return norm(x, self.state[f"{name}.final_layer_norm.weight"])

    def projected(self, seen: Tensor) -> Tensor:
        first, second = ([self.state[f"mm_projector.{i}.{w}"] for w in ("weight", "bias")] for i in (0, 2))
        return F.linear(F.gelu(F.linear(seen.double(), *first)), *second)


def padded(image: Image.Image) -> Image.Image:
    """As the authors do: in the middle of a square of CLIP's mean colour."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def plain(
    state: dict[str, Tensor], eye: CLIPVisionModel, folder: str, pixels: Tensor, prompts: list[str]
) -> Tensor:
    """p [n], the paper's score, of each image alone."""
    model, words = Written(state), t5_tokenizer()
    processor, scores = CLIPImageProcessor.from_pretrained(Path(folder) / "eye"), []
    table, answer = model.state["shared.weight"], words("Yes").input_ids
    assert answer[-1] == words.eos_token_id
    system = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: "
    )
    for image, prompt in zip(pixels, prompts, strict=True):
        flat = torch.from_numpy(np.asarray(padded(Media(image[None])[0])).copy()).permute(2, 0, 1) / 255  # type: ignore[arg-type]
        inputs = processor(flat, do_rescale=False, return_tensors="pt")
        with torch.no_grad():
            hidden = eye(**inputs, output_hidden_states=True).hidden_states
        after = f'\nDoes this figure show "{prompt}"? Please answer yes or no. ASSISTANT: '
        parts = [
            table[words(system).input_ids],
            model.projected(hidden[-2][0, 1:]),
            table[words(after).input_ids],
        ]
        encoded = model.stack("encoder", torch.cat(parts))
        said = model.stack("decoder", table[[0, *answer[:-1]]], encoded)
        logits = said @ model.state["lm_head.weight"].T
        losses = F.cross_entropy(logits, torch.tensor(answer))
        scores.append((-losses).exp())
    return torch.stack(scores)


@pytest.mark.parametrize(
    "size", [(60, 44), *(pytest.param(size, marks=pytest.mark.slow) for size in ((SIDE, SIDE), (30, 57)))]
)
def test_the_score_is_the_paper_s(folder: str, size: tuple[int, int]) -> None:
    pixels = smooth(5, *size)
    p = plain(weights(), tower(1), folder, pixels, PROMPTS)
    expected = {"probability": p, "log_probability": p.log(), "log_odds": (p / (1 - p)).log()}
    for scale, value in expected.items():
        found = ClipFlanT5(folder, scale=scale, batch_size=2)(Media(pixels), PROMPTS)
        torch.testing.assert_close(found, value, atol=2e-3, rtol=2e-3)
    assert p.unique().numel() == 5
    assert float(p.log().max() - p.log().min()) > 0.02  # far above the tolerance


@pytest.mark.slow
def test_a_checkpoint_in_shards_with_a_tower_of_its_own(folder: str, tmp_path: Path) -> None:
    """As the published one: pickles of tensors with an index; a tuned tower counts, not the CLIP that it names."""
    state, own = weights(), tower(7)
    for prefix in ("vision_model.", ""):
        eye = {key.removeprefix("vision_model."): value for key, value in own.state_dict().items()}
        copies = {f"vision_tower.vision_tower.{prefix}{key}": value for key, value in eye.items()}
        copies |= {f"vision_tower.vision_tower.{prefix}embeddings.position_ids": torch.arange(17)[None]}
        unused = {
            "embed_tokens.weight": state["shared.weight"],
            "encoder.embed_tokens.weight": state["shared.weight"],
        }
        where = saved(tmp_path / f"at_{prefix}", state | copies | unused, shards=3)
        pixels = smooth(2, 40, 40)
        found = ClipFlanT5(where, scale="probability")(Media(pixels), PROMPTS[:2])
        torch.testing.assert_close(found, plain(state, own, where, pixels, PROMPTS[:2]), atol=2e-3, rtol=2e-3)
        other = ClipFlanT5(folder, scale="probability")(Media(pixels), PROMPTS[:2])
        assert bool(((found - other).abs() / other > 0.01).any())


@pytest.mark.slow
def test_every_weight_matters(folder: str) -> None:
    """A part that is left out would change nothing."""
    verifier, media = ClipFlanT5(folder, dtype="float64"), Media(smooth(1, 40, 30))
    score, model = verifier(media, ["a cat"]), verifier._model(torch.device("cpu"))
    parts = {**dict(model.language.named_parameters()), **dict(model.projector.named_parameters())}
    assert len(parts) == len(weights()) + 2  # the embeddings are in both stacks
    for key in [k for k in parts if "block.1" not in k and not k.endswith("embed_tokens.weight")]:
        before = parts[key].data.clone()
        parts[key].data *= 1.5
        changed = (verifier(media, ["a cat"]) - score).abs().item()
        parts[key].data = before
        assert changed > 1e-6, key


def test_the_first_t5_shares_its_embeddings_and_scales(tmp_path: Path) -> None:
    state = {k: v for k, v in weights().items() if k != "lm_head.weight"}
    media = Media(smooth(2, SIDE, SIDE))
    tied = ClipFlanT5(saved(tmp_path / "tied", state, tie_word_embeddings=True))(media, PROMPTS[:2])
    same = state | {"lm_head.weight": state["shared.weight"] * WIDTH**-0.5}
    apart = ClipFlanT5(saved(tmp_path / "apart", same))(media, PROMPTS[:2])
    torch.testing.assert_close(tied, apart, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match=r"1 are missing \(lm_head.weight\)"):
        ClipFlanT5(saved(tmp_path / "missing", state)).load()


def test_images_are_filled_up_to_squares_of_the_mean_colour() -> None:
    image = Media(noise(1, 3, 5, 8))[0]
    assert isinstance(image, Image.Image)
    mean = CLIPImageProcessor().image_mean
    for turned in (image, image.rotate(90, expand=True)):
        pixels = torch.from_numpy(np.asarray(turned).copy()).permute(2, 0, 1)[None] / 255
        ours = Media(squared(pixels, mean))
        assert np.array_equal(np.asarray(ours[0]), np.asarray(padded(turned)))


def test_order_batches_and_frames(folder: str) -> None:
    pixels, turned = noise(5, 3, 40, 50), [3, 0, 4, 1, 2]
    whole = ClipFlanT5(folder)(Media(pixels), PROMPTS)
    apart = ClipFlanT5(folder, batch_size=2)(Media(pixels[turned]), [PROMPTS[i] for i in turned])
    torch.testing.assert_close(apart, whole[turned], atol=1e-5, rtol=1e-5)
    assert bool(whole.isfinite().all())
    clips = ClipFlanT5(folder, batch_size=3)(Media(pixels[:4].reshape(2, 2, 3, 40, 50)), PROMPTS[:2])
    named = [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    frames = ClipFlanT5(folder)(Media(pixels[:4]), named).reshape(2, 2).mean(1)
    torch.testing.assert_close(clips, frames, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="5 images and 1 prompts"):
        ClipFlanT5(folder)(Media(pixels), PROMPTS[:1])


def test_gradients_are_those_of_finite_differences(folder: str) -> None:
    verifier = ClipFlanT5(folder, dtype="float64")
    pixels, way = smooth(2, 40, 50).double().requires_grad_(), noise(2, 3, 40, 50, seed=2).double() - 0.5
    (slope,) = torch.autograd.grad(verifier.score_tensor(pixels, PROMPTS[:2]).sum(), pixels)
    h = 3e-3  # some norms are computed in float32
    with torch.no_grad():
        up, down = (verifier.score_tensor(pixels + s * way, PROMPTS[:2]) for s in (h, -h))
    torch.testing.assert_close((slope * way).flatten(1).sum(1), (up - down) / (2 * h), atol=2e-4, rtol=1e-2)
    assert bool((slope.flatten(1).norm(dim=1) > 1e-4).all())


def test_half_precision_does_not_round_the_score(folder: str) -> None:
    media = Media(noise(5, 3, 48, 36))
    half, full = (ClipFlanT5(folder, dtype=d)(media, PROMPTS) for d in ("bfloat16", "float32"))
    assert half.unique().numel() == 5
    torch.testing.assert_close(half, full, atol=0.5, rtol=0.1)


def test_weights_are_shared_and_left_behind_by_copies(folder: str) -> None:
    one, two = ClipFlanT5(folder), ClipFlanT5(folder, scale="probability")
    one.load()
    two.load()
    assert one._models[torch.device("cpu")] is two._models[torch.device("cpu")]
    assert len(pickle.dumps(one)) < 2000
    assert copy.deepcopy(one) == one
    assert one.backbone == folder
    assert two.answers_probability


def test_what_is_missing_or_wrong_is_refused(folder: str, tmp_path: Path) -> None:
    for settings, said in (
        ({"question": "good?"}, "does not name the prompt"),
        ({"scale": "odds"}, "is unknown"),
    ):
        with pytest.raises(UsageError, match=said):
            ClipFlanT5(folder, **settings)
    with pytest.raises(UsageError, match="there is no folder"):
        ClipFlanT5(str(tmp_path / "nothing")).load()
    with pytest.raises(UsageError, match="contains the model's mark of an image"):
        ClipFlanT5(folder).prepare(["an <image> of a cat"], torch.device("cpu"))
    with pytest.raises(UsageError, match="empty answer"):
        ClipFlanT5(folder, answer="").prepare(["a cat"], torch.device("cpu"))
    (Path(saved(tmp_path / "bare", weights())) / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no model.safetensors or pytorch_model.bin"):
        ClipFlanT5(str(tmp_path / "bare")).load()
    few = {k: v for k, v in weights().items() if not k.startswith("mm_projector.2")}
    with pytest.raises(UsageError, match="1 layers between CLIP and T5"):
        ClipFlanT5(saved(tmp_path / "few", few)).load()
    with pytest.raises(UsageError, match="1 belong to something else"):
        ClipFlanT5(saved(tmp_path / "more", weights() | {"other.weight": torch.ones(2)})).load()
    outside = Path(saved(tmp_path / "outside", weights(), shards=2)) / "pytorch_model.bin.index.json"
    outside.write_text(json.dumps({"weight_map": {"shared.weight": "../few/model.safetensors"}}))
    with pytest.raises(UsageError, match="does not list files of its own folder"):
        ClipFlanT5(str(outside.parent)).load()
