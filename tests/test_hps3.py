"""`hps3` on a tiny Qwen2-VL of random weights in the layout of the published file, against its published formula."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoProcessor, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLVideoProcessor
from transformers.models.qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers import hps3
from genscale.verifiers.hps3 import Hps3
from genscale.verifiers.hps3_text import instruction
from tests.test_verifiers import PROMPTS, noise, randomise
from tests.test_vqa_score import MARKS, TEMPLATE, eight_bit, words

SIDE = 28
PIXELS = 4 * SIDE * SIDE  # of the tiny model, in place of 256 * 28 * 28
FIRST = "\nHow good is it as {text_prompt}?\n"
SECOND = "\nThe grade: <|Reward|>\n\nDone\n"
WIDTH = 32


def config(rows: int) -> Qwen2VLConfig:
    mark = {m: words().convert_tokens_to_ids(m) for m in MARKS}
    text = {
        "vocab_size": rows, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": None,
        "eos_token_id": mark["<|im_end|>"], "pad_token_id": mark["<|im_end|>"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
    }  # fmt: skip
    eye = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": WIDTH,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    return Qwen2VLConfig(
        text_config=text, vision_config=eye | {"spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=mark["<|image_pad|>"], video_token_id=mark["<|video_pad|>"],
        vision_start_token_id=mark["<|vision_start|>"], vision_end_token_id=mark["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, nn.Sequential]:
    """A folder with base, checkpoint and instruction, as published; and the model and head that are in it."""
    folder = tmp_path_factory.mktemp("hps3")
    config(len(words()) + 60).save_pretrained(folder / "base")  # the base has rows that no token uses
    pictures = Qwen2VLImageProcessor(patch_size=14)
    clips = Qwen2VLVideoProcessor(patch_size=14)
    Qwen2VLProcessor(pictures, words(), clips, chat_template=TEMPLATE).save_pretrained(folder / "base")
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config(len(words()) + 1)).eval()
    head = nn.Sequential(
        nn.Linear(WIDTH, 24), nn.ReLU(), nn.Dropout(0.05), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 2)
    ).eval()
    randomise(model)
    randomise(head, 1)
    old = {}  # names of transformers 4.45
    for key, value in model.state_dict().items():
        name = re.sub(r"^model\.visual\.", "visual.", re.sub(r"^model\.language_model\.", "model.", key))
        old[name] = value.clone()
    assert any(k.startswith("visual.blocks.0") for k in old)
    assert "model.layers.1.mlp.up_proj.weight" in old
    save_file(
        old | {f"rm_head.{k}": v.clone() for k, v in head.state_dict().items()}, folder / "HPSv3.safetensors"
    )
    (folder / "instruction.txt").write_text(FIRST + SECOND)
    return folder, model, head


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hps3, "PIXELS", PIXELS)


@pytest.fixture
def verifier(parts: tuple[Path, nn.Module, nn.Sequential]) -> Hps3:
    return made(parts[0])


def made(folder: Path, **options: object) -> Hps3:
    given = {
        "checkpoint": str(folder),
        "base": str(folder / "base"),
        "instruction": str(folder / "instruction.txt"),
    }
    return Hps3(**(given | options))  # type: ignore[arg-type]


def plain(parts: tuple[Path, nn.Module, nn.Sequential], pixels: Tensor, prompts: list[str]) -> Tensor:
    """mu [n] by the processor's own preprocessing, the whole text padded on the right, and the mask of the mark."""
    folder, model, head = parts
    processor = AutoProcessor.from_pretrained(folder / "base")
    processor.tokenizer.padding_side = "right"
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    mark = processor.tokenizer.convert_tokens_to_ids("<|Reward|>")
    talks = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image"},
                    {"type": "text", "text": FIRST.format(text_prompt=p) + SECOND},
                ],
            }
        ]
        for p in prompts
    ]
    texts = [processor.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in talks]
    size = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
    inputs = processor(
        text=texts,
        images=list(Media(pixels)),
        padding=True,
        return_tensors="pt",
        images_kwargs={"size": size},
    )
    with torch.no_grad():
        hidden = model.model(**inputs).last_hidden_state
        return head(hidden)[inputs.input_ids == mark].reshape(len(prompts), 2)[:, 0]


def test_the_score_is_the_published_formula(
    parts: tuple[Path, nn.Module, nn.Sequential], verifier: Hps3
) -> None:
    pictures = eight_bit(noise(5, 3, 2 * SIDE, 2 * SIDE))  # of the right size: nothing is resized
    expected = plain(parts, pictures, PROMPTS)
    found = verifier(Media(pictures), PROMPTS)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    assert found.unique().numel() == 5
    assert float(expected.std()) > 0.05


@pytest.mark.parametrize("size", [(20, 30), (100, 64), (56, 112)])
def test_every_image_gets_as_many_pixels(
    parts: tuple[Path, nn.Module, nn.Sequential], verifier: Hps3, size: tuple[int, int]
) -> None:
    grid = verifier._model(torch.device("cpu")).qwen.patches.grid(*size)
    assert 0.25 * PIXELS < grid[0] * grid[1] * 14 * 14 <= 4 * PIXELS
    smooth = eight_bit(0.4 + 0.2 * torch.linspace(0, 1, size[1]).expand(2, 3, *size))
    found, expected = verifier(Media(smooth), PROMPTS[:2]), plain(parts, smooth, PROMPTS[:2])
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)  # theirs is resized in 8 bits


def test_order_batches_and_frames(parts: tuple[Path, nn.Module, nn.Sequential], verifier: Hps3) -> None:
    pictures, turned = noise(5, 3, 40, 50), [3, 0, 4, 1, 2]
    whole = verifier(Media(pictures), PROMPTS)
    apart = made(parts[0], batch_size=2)(Media(pictures[turned]), [PROMPTS[i] for i in turned])
    torch.testing.assert_close(apart, whole[turned], atol=1e-4, rtol=1e-4)
    clips = verifier(Media(pictures[:4].reshape(2, 2, 3, 40, 50)), PROMPTS[:2])
    named = [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    torch.testing.assert_close(
        clips, verifier(Media(pictures[:4]), named).reshape(2, 2).mean(1), atol=1e-4, rtol=1e-4
    )


def test_gradients_are_those_of_finite_differences(parts: tuple[Path, nn.Module, nn.Sequential]) -> None:
    verifier = made(parts[0], dtype="float64")
    pixels, way = 0.25 + noise(2, 3, 40, 50).double() / 2, noise(2, 3, 40, 50, seed=2).double() - 0.5
    pixels.requires_grad_()
    (slope,) = torch.autograd.grad(verifier.score_tensor(pixels, PROMPTS[:2]).sum(), pixels)
    h = 1e-4
    with torch.no_grad():
        up, down = (verifier.score_tensor(pixels + s * way, PROMPTS[:2]) for s in (h, -h))
    torch.testing.assert_close((slope * way).flatten(1).sum(1), (up - down) / (2 * h), atol=5e-3, rtol=2e-2)
    assert bool((slope.flatten(1).norm(dim=1) > 1e-3).all())


def test_weights_are_shared_and_left_behind_by_copies(
    parts: tuple[Path, nn.Module, nn.Sequential], verifier: Hps3
) -> None:
    verifier.load()
    other = made(parts[0], batch_size=3)
    other.load()
    assert verifier._models[torch.device("cpu")] is other._models[torch.device("cpu")]
    assert len(pickle.dumps(verifier)) < 2000
    assert copy.deepcopy(verifier) == verifier
    assert verifier.backbone == str(parts[0] / "base")


def test_the_instruction_is_read_and_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "import nothing_at_all\nopen('ran', 'w')\n"
    module += f"INSTRUCTION = {FIRST!r}\nprompt_with_special_token = {SECOND!r}\n"
    package = tmp_path / "hpsv3" / "dataset"
    package.mkdir(parents=True)
    (tmp_path / "hpsv3" / "__init__.py").write_text("raise ImportError\n")
    (package / "data_collator_qwen.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert instruction(None) == FIRST + SECOND
    assert instruction(str(package / "data_collator_qwen.py")) == FIRST + SECOND
    assert not (tmp_path / "ran").exists()
    (tmp_path / "one.txt").write_text("{text_prompt} without a mark")
    (tmp_path / "two.py").write_text("INSTRUCTION = 1 +")
    for name in ("one.txt", "two.py"):
        with pytest.raises(UsageError, match="once each"):
            instruction(str(tmp_path / name))


def test_what_is_missing_or_wrong_is_refused(
    parts: tuple[Path, nn.Module, nn.Sequential], verifier: Hps3, tmp_path: Path
) -> None:
    folder = parts[0]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("genscale.verifiers.hps3_text.find_spec", lambda name: None)
        with pytest.raises(UsageError, match="pip install --no-deps hpsv3"):
            made(folder, instruction=None).load()
    with pytest.raises(UsageError, match="there is no folder"):
        made(folder, base=str(tmp_path / "none")).load()
    with pytest.raises(UsageError, match="there is no file"):
        made(folder, checkpoint=str(tmp_path / "none.safetensors")).load()
    with pytest.raises(UsageError, match="contains the model's token"):
        verifier.prepare(["a <|Reward|> cat"], torch.device("cpu"))
    from safetensors.torch import load_file

    state = load_file(folder / "HPSv3.safetensors")
    state.pop("model.norm.weight")
    save_file(state, tmp_path / "HPSv3.safetensors")
    with pytest.raises(UsageError, match="1 of its weights are missing"):
        made(folder, checkpoint=str(tmp_path)).load()
    save_file({"rm_head.0.weight": torch.ones(1)}, tmp_path / "HPSv3.safetensors")
    with pytest.raises(UsageError, match="cannot be loaded"):
        made(folder, checkpoint=str(tmp_path)).load()
