"""VQAScore on tiny Qwen-VLs of random weights, against transformers' own processor and plain model call."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast
from transformers.models import qwen2_5_vl, qwen3_vl
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.qwen_image import from_processor
from genscale.verifiers.vqa_score import VqaScore
from tests.test_verifiers import PROMPTS, noise, randomise

MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LIMITS = {"shortest_edge": 24 * 24, "longest_edge": 72 * 72}


def words() -> PreTrainedTokenizerFast:
    """Bytes as tokens, and Qwen's marks."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(MARKS)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|im_end|>", eos_token="<|im_end|>")


def saved(folder: Path, kind: str) -> str:
    tokenizer, patch = words(), 6
    mark = {m: tokenizer.convert_tokens_to_ids(m) for m in MARKS}
    ids = {
        "image_token_id": mark["<|image_pad|>"],
        "video_token_id": mark["<|video_pad|>"],
        "vision_start_token_id": mark["<|vision_start|>"],
        "vision_end_token_id": mark["<|vision_end|>"],
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        "bos_token_id": None,
        "eos_token_id": mark["<|im_end|>"],
        "pad_token_id": mark["<|im_end|>"],
    }
    eye = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32}
    eye |= {"patch_size": patch, "temporal_patch_size": 2, "spatial_merge_size": 2}
    torch.manual_seed(0)
    package: Any
    if kind == "qwen3_vl":
        package, name = qwen3_vl, "Qwen3VL"
        eye |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    else:
        package, name = qwen2_5_vl, "Qwen2_5_VL"
        text.pop("head_dim")
        eye |= {"window_size": 24, "fullatt_block_indexes": [1]}
    config = getattr(package, f"{name}Config")(
        text_config=text, vision_config=eye, tie_word_embeddings=False, **ids
    )
    model = getattr(package, f"{name}ForConditionalGeneration")(config)
    randomise(model)
    model.save_pretrained(folder)
    pictures = Qwen2VLImageProcessor(patch_size=patch, size=LIMITS)
    from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

    clips = (Qwen3VLVideoProcessor if kind == "qwen3_vl" else Qwen2VLVideoProcessor)(patch_size=patch)
    processor = getattr(package, f"{name}Processor")(pictures, tokenizer, clips, chat_template=TEMPLATE)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp(request.param), request.param)


QUESTION = 'Does this figure show "{}"? Please answer yes or no.'


def plain(
    folder: str,
    pixels: Tensor,
    prompts: list[str],
    dtype: torch.dtype = torch.float32,
    question: str = QUESTION,
) -> Tensor:
    """P(first token) [n, vocabulary] by the processor's own preprocessing of each image alone, in float64."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, torch_dtype=dtype).eval()
    found = []
    for picture, prompt in zip(Media(pixels), prompts, strict=True):
        words = {"type": "text", "text": question.format(prompt)}
        talk = [{"role": "user", "content": [{"type": "image"}, words]}]
        text = processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=[picture], return_tensors="pt")
        with torch.no_grad():
            found.append(model(**inputs).logits[0, -1].double().softmax(0))
    return torch.stack(found)


def eight_bit(pixels: Tensor) -> Tensor:
    return (pixels * 255).round() / 255


def test_the_score_is_the_log_odds_of_the_plain_model(folder: str) -> None:
    pictures = eight_bit(noise(5, 3, 48, 36))  # whole patches: nothing is resized, nothing rounded
    odds = plain(folder, pictures, PROMPTS)
    yes, no = (words()(word).input_ids[0] for word in ("Yes", "No"))
    p = odds[:, yes]
    expected = {"log_odds": (p / (1 - p)).log(), "probability": p, "margin": (p / odds[:, no]).log()}
    for scale, value in expected.items():
        found = VqaScore(folder, scale=scale, batch_size=2)(Media(pictures), PROMPTS)
        torch.testing.assert_close(found, value.float(), atol=2e-4, rtol=1e-4)
    assert p.unique().numel() == 5
    other = VqaScore(folder, answer="No")(Media(pictures), PROMPTS)
    torch.testing.assert_close(other, (odds[:, no] / (1 - odds[:, no])).log().float(), atol=2e-4, rtol=1e-4)
    changed = VqaScore(folder, question="{prompt}?")(Media(pictures), PROMPTS)
    assert bool(((changed - expected["log_odds"].float()).abs() > 1e-3).any())


@pytest.mark.parametrize("size", [(48, 36), (50, 61), (16, 20), (96, 130), (140, 30), (9, 100)])
def test_patches_are_those_of_the_processor(size: tuple[int, int]) -> None:
    """The same arithmetic where theirs works on floats; where it works on 8 bits, a little over a level off."""
    processor = Qwen2VLImageProcessor(patch_size=6, size=LIMITS)
    pixels = eight_bit(0.25 + noise(3, 3, *size) / 2)  # a cubic kernel overshoots no further than [0, 1]
    ours = from_processor(processor)
    rows, columns = smart_resize(*size, 12, LIMITS["shortest_edge"], LIMITS["longest_edge"])
    assert ours.grid(*size) == (rows // 6, columns // 6)
    floats = processor(list(pixels), do_rescale=False, return_tensors="pt")
    assert floats.image_grid_thw.tolist() == [[1, *ours.grid(*size)]] * 3
    assert ours.tokens(*size) * 4 * 3 == len(floats.pixel_values)
    torch.testing.assert_close(ours(pixels), floats.pixel_values, atol=1e-5, rtol=0)
    eight = processor(list(Media(pixels)), return_tensors="pt").pixel_values
    levels = (ours(pixels) - eight).abs().max() * 255 * max(processor.image_std)
    assert float(levels) <= 1.3  # half a level is rounded off after each of the two directions of resizing


def test_order_batches_and_frames(folder: str) -> None:
    pictures, turned = noise(5, 3, 40, 50), [3, 0, 4, 1, 2]
    whole = VqaScore(folder)(Media(pictures), PROMPTS)
    apart = VqaScore(folder, batch_size=2)(Media(pictures[turned]), [PROMPTS[i] for i in turned])
    torch.testing.assert_close(apart, whole[turned], atol=1e-4, rtol=1e-4)
    clips = VqaScore(folder, batch_size=3)(Media(pictures[:4].reshape(2, 2, 3, 40, 50)), PROMPTS[:2])
    named = [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    frames = VqaScore(folder)(Media(pictures[:4]), named).reshape(2, 2).mean(1)
    torch.testing.assert_close(clips, frames, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="5 images and 1 prompts"):
        VqaScore(folder)(Media(pictures), PROMPTS[:1])


def test_gradients_are_those_of_finite_differences(folder: str) -> None:
    verifier = VqaScore(folder, dtype="float64")
    pixels, way = 0.25 + noise(2, 3, 40, 50).double() / 2, noise(2, 3, 40, 50, seed=2).double() - 0.5
    pixels.requires_grad_()
    (slope,) = torch.autograd.grad(verifier.score_tensor(pixels, PROMPTS[:2]).sum(), pixels)
    h = 1e-4  # the models keep some norms in float32
    with torch.no_grad():
        up, down = (verifier.score_tensor(pixels + s * way, PROMPTS[:2]) for s in (h, -h))
    torch.testing.assert_close((slope * way).flatten(1).sum(1), (up - down) / (2 * h), atol=5e-3, rtol=2e-2)
    assert bool((slope.flatten(1).norm(dim=1) > 1e-3).all())


def test_a_sure_model_neither_ties_nor_loses_its_gradient(folder: str) -> None:
    verifier, pixels = VqaScore(folder), noise(3, 3, 48, 36).requires_grad_()
    model = verifier._model(torch.device("cpu"))
    head = model.module.get_output_embeddings()
    before = head.weight.data.clone()
    try:
        head.weight.data[model.token("Yes")] *= 60  # so that P(yes) is 0 or 1 in float32
        odds = verifier.score_tensor(pixels, PROMPTS[:3])
        sure = VqaScore(folder, scale="probability")(Media(pixels.detach()), PROMPTS[:3])
        (slope,) = torch.autograd.grad(odds.sum(), pixels)
    finally:
        head.weight.data.copy_(before)
    assert bool(((sure < 1e-12) | (sure == 1)).any())
    assert bool(odds.isfinite().all())
    assert odds.unique().numel() == 3
    assert bool((slope.flatten(1).norm(dim=1) > 1e-3).all())


def test_half_precision_does_not_round_the_score(folder: str) -> None:
    media = Media(noise(5, 3, 48, 36))
    half, full = (VqaScore(folder, dtype=d)(media, PROMPTS) for d in ("bfloat16", "float32"))
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float())  # which it would be, were the logits in bfloat16
    torch.testing.assert_close(half, full, atol=0.5, rtol=0.1)


def test_max_pixels_makes_fewer_tokens(folder: str) -> None:
    small, media = VqaScore(folder, max_pixels=24 * 24), Media(eight_bit(noise(1, 3, 48, 48)))
    assert small._model(torch.device("cpu")).patches.tokens(48, 48) == 4
    assert VqaScore(folder)._model(torch.device("cpu")).patches.tokens(48, 48) == 16
    assert not torch.allclose(small(media, ["blue"]), VqaScore(folder)(media, ["blue"]), atol=1e-4)


def test_weights_are_shared_and_left_behind_by_copies(folder: str) -> None:
    one, two = VqaScore(folder), VqaScore(folder, scale="margin")
    one.load()
    two.load()
    assert one._models[torch.device("cpu")] is two._models[torch.device("cpu")]
    assert len(pickle.dumps(one)) < 2000
    assert copy.deepcopy(one) == one


def test_what_is_missing_or_wrong_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        VqaScore(str(tmp_path / "nothing")).load()
    with pytest.raises(UsageError, match="cannot be loaded"):
        VqaScore(str(tmp_path)).load()
    for settings, said in (
        ({"question": "Is it good?"}, "does not name the prompt"),
        ({"scale": "odds"}, "is unknown"),
        ({"max_pixels": 0}, "leaves no image"),
        ({"dtype": "float17"}, "is unknown"),
    ):
        with pytest.raises(UsageError, match=said):
            VqaScore(folder, **settings)
    media = Media(noise(1, 3, 48, 36))
    with pytest.raises(UsageError, match="contains the model's image token"):
        VqaScore(folder)(media, ["a <|image_pad|> cat"])
    with pytest.raises(UsageError, match="too narrow"):
        VqaScore(folder)(Media(noise(1, 3, 2, 500)), ["a cat"])
