"""Questions to a tiny vision-language model that is loaded here, against transformers' own processor and `generate`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForImageTextToText, AutoProcessor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.chat import Question
from genscale.verifiers.chat_model import chat_model
from genscale.verifiers.vlm_judge import VlmJudge
from tests.test_verifiers import noise
from tests.test_vqa_score import saved

ANSWER = '{"reason": "as told", "alignment": 7, "quality": 4, "aesthetics": 1}'
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("qwen"), "qwen3_vl")


@pytest.fixture(scope="module")
def reciting(folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return reciting_model(folder, tmp_path_factory.mktemp("reciting"), ANSWER)


def reciting_model(folder: str, where: Path, answer: str) -> str:
    """A model whose next token depends on the last one alone: a line break is followed by `answer`, that by the end."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    words = processor.tokenizer
    words.add_tokens([AddedToken(answer, normalized=False)])
    model.resize_token_embeddings(len(words), mean_resizing=False)
    (line,) = words("\n", add_special_tokens=False).input_ids
    told, end = words.convert_tokens_to_ids([answer, "<|im_end|>"])
    with torch.no_grad():
        for name, weight in model.model.language_model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):  # what layers add to a token's embedding
                weight.zero_()
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embeddings[told] = embeddings[line].flip(0)
        head.zero_()
        head[told], head[end] = embeddings[line] * 10, embeddings[told] * 10
    model.save_pretrained(where)
    processor.save_pretrained(where)
    return str(where)


def test_answers_are_those_of_the_plain_model_whatever_the_batch(folder: str) -> None:
    pictures = list(Media(noise(4, 3, 48, 36)))
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    texts = ["What?", "Is it a cat, or something longer?", "What?", "Who"]
    expected = []
    for picture, text in zip(pictures, texts, strict=True):
        talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        words = processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[words], images=[picture], return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        expected.append(
            processor.tokenizer.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        )
    assert len(set(expected)) > 1
    questions = [Question(text, (picture,)) for text, picture in zip(texts, pictures, strict=True)]
    loaded = chat_model(folder, CPU, torch.float32)
    for batch in (1, 3, 4):
        chat = loaded.asked(6, batch)
        found = dict(chat.answers(questions, lambda text: True))
        assert [found[i] for i in range(4)] == expected
    assert isinstance(loaded.texts([Question("no picture")], 6)[0], str)


def test_several_images_are_given_in_their_order(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, seen = chat_model(folder, CPU, torch.float32), []
    pictures = list(Media(noise(3, 3, 48, 36)))

    def generate(**inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs)
        return inputs["input_ids"]

    monkeypatch.setattr(loaded.module, "generate", generate)
    for order in ((0, 1, 2), (2, 0)):
        loaded.texts([Question("Which?", tuple(pictures[i] for i in order))], 6)
        alone = loaded.processor.image_processor([pictures[i] for i in order], return_tensors="pt")
        assert torch.equal(seen[-1]["pixel_values"], alone.pixel_values)
        assert int((seen[-1]["input_ids"] == loaded.module.config.image_token_id).sum()) == 12 * len(order)


def test_a_loaded_model_judges(reciting: str, tmp_path: Path) -> None:
    media, prompts = Media(noise(3, 3, 48, 36)), ["a cat", "two dogs", "a very long red cat"]
    judge = VlmJudge(checkpoint=reciting, cache=str(tmp_path), max_tokens=4, batch_size=2)
    judge.prepare(prompts, CPU)
    assert judge(media, prompts).tolist() == [(2 * 7 + 4 + 1) / 4] * 3
    assert not judge.remote
    assert judge.backbone == reciting
    assert len(list(tmp_path.rglob("*.json"))) == 3
    clip = Media(noise(6, 3, 48, 36).reshape(2, 3, 3, 48, 36))
    assert VlmJudge(checkpoint=reciting, cache=None, axis="quality", frames=2)(
        clip, prompts[:2]
    ).tolist() == [4, 4]


def test_a_model_that_says_something_else_gives_no_score(folder: str) -> None:
    judge = VlmJudge(checkpoint=folder, cache=None, max_tokens=3)
    with pytest.warns(UserWarning, match="2 of 2 questions have no answer"):
        assert judge(Media(noise(2, 3, 48, 36)), ["a", "b"]).isnan().all()


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    for checkpoint, said in (
        (str(tmp_path / "no"), "there is no folder"),
        (str(tmp_path), "cannot be loaded"),
    ):
        with pytest.raises(UsageError, match=said):
            VlmJudge(checkpoint=checkpoint, cache=None).prepare(["a"], CPU)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be kept"):
        VlmJudge(cache=str(tmp_path / "file")).prepare(["a"], CPU)
