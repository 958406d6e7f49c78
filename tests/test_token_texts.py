"""Searches over texts: a function that returns text, and token models of transformers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import genscale
from genscale.cli.app import main
from genscale.errors import UsageError
from tests.zoo_parts import clip_tokenizer, t5_tokenizer


def random_model(cls: Any, tokenizer: Any, **config: Any) -> Any:
    """With the same random weights every time, and its tokenizer."""
    torch.manual_seed(0)
    return cls(cls.config_class(vocab_size=len(tokenizer), **config)).eval(), tokenizer


@functools.cache
def decoder() -> Any:
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    return random_model(transformers.GPT2LMHeadModel, clip_tokenizer(), **sizes, **ends)


@functools.cache
def translator() -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    start = {"decoder_start_token_id": 0}
    return random_model(transformers.T5ForConditionalGeneration, t5_tokenizer(), **sizes, **start)


def many_letters(media: Any, prompts: Any) -> list[float]:
    assert media.kind == "text"
    assert media.data == list(media)
    return [float(len(set(text))) for text in media]


many_letters.judges = ("text",)  # type: ignore[attr-defined]


def pixels_of_texts(media: Any, prompts: Any) -> Any:
    return media.pixels.mean((1, 2, 3))


pixels_of_texts.judges = ("text",)  # type: ignore[attr-defined]


def words(prompt: str, seed: int) -> str:
    return f"{prompt} {seed % 97}"


def test_texts_are_searched_as_images_are(tmp_path: Path) -> None:
    better = genscale.scale(words, "best_of_n", many_letters, candidates=9, keep=9, out=tmp_path / "run")
    out = better(["one", "two"], seed=5)
    assert out.texts == out.images
    assert out.texts[0].startswith("one ")
    finals = out.search.searches[0].finals
    assert finals[0].total == len(set("one 5"))
    assert out.search.media(finals)[0] == "one 5"
    assert [e.total for e in finals] == [len(set(t)) for t in out.search.media(finals)]
    assert sum(1 for p in (tmp_path / "run" / "media").iterdir() if p.suffix == ".txt") > 9
    again = better.search(["one", "two"], seed=5)
    assert [e.total for e in again.entries] == [e.total for e in out.search.entries]


def odd_words(prompt: str, seed: int) -> str:
    return f"{prompt}\r\n  {seed % 97}\u2028\ud800 "


@pytest.mark.parametrize("write", [pytest.param(words, marks=pytest.mark.slow), odd_words])
def test_a_search_over_texts_is_saved_shown_loaded_and_replayed(
    write: Any, tmp_path: Path, capsys: Any
) -> None:
    answers = genscale.make_verifier("answers")
    better = genscale.scale(write, "best_of_n", answers, ensemble="vote", candidates=5, keep=5)
    out = better(["one", "two"], seed=5)
    folder = out.search.save(tmp_path / "saved")
    for i in range(2):
        assert (folder / f"00{i}-best.txt").read_bytes().decode("utf-8", "surrogatepass") == out.texts[i]
    loaded = genscale.load_result(folder)
    best = [loaded.ranking(i)[0] for i in range(2)]
    assert list(loaded.media(best)) == out.texts
    assert [loaded.total(e) for e in loaded.ranking()] == [out.search.total(e) for e in out.search.ranking()]
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "finished" in said
    assert "votes" in said  # and not the numbers that stand for the answers
    assert "e+" not in said
    assert loaded.table()[0]["votes"] == out.search.total(out.search.ranking()[0])
    picture, copy = str(folder / "001-best.png"), tmp_path / "again.txt"
    assert main(["replay", picture]) == 2
    assert "add --trust-remote-code" in capsys.readouterr().err
    assert main(["replay", picture, "--trust-remote-code", "--out", str(copy)]) == 0
    assert "same" in capsys.readouterr().out
    assert copy.read_bytes() == (folder / "001-best.txt").read_bytes()


@pytest.mark.slow
def test_a_search_over_texts_on_the_command_line(tmp_path: Path, capsys: Any) -> None:
    run, judge = str(tmp_path / "run"), "tests.test_token_texts:many_letters"
    call = ["generate", "one", "--model", "tests.test_token_texts:words", "--seed", "5", "--out", run]
    assert main([*call, "--verifier", "answers", "--ensemble", "vote", "--budget", "4images"]) == 0
    said = capsys.readouterr().out
    assert "votes" in said
    assert "e+" not in said
    best = (tmp_path / "run" / "best.txt").read_text()
    assert best.startswith("one ")
    found = genscale.load_result(run)
    assert found.media(found.ranking()[:1])[0] == best
    assert main(["rescore", run, "--verifier", judge]) == 0
    assert "would win" in capsys.readouterr().out


def test_what_wants_pixels_of_texts_is_told() -> None:
    with pytest.raises(UsageError, match="text have no pixels"):
        genscale.scale(words, "best_of_n", pixels_of_texts, candidates=2)("a", seed=1)


@pytest.mark.parametrize("made", [decoder, translator])
def test_a_token_model(made: Any) -> None:
    model, tokenizer = made()
    texts = genscale.token_texts(model, tokenizer, max_new_tokens=12)
    before = torch.get_rng_state()
    assert genscale.scale(texts, candidates=1)("a red star", seed=3).texts == [texts("a red star", seed=3)]
    transformers.set_seed(3)
    given = tokenizer("a red star", return_tensors="pt")
    [tokens] = model.generate(
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        do_sample=True,
        max_new_tokens=12,
    )
    tokens = tokens if made is translator else tokens[given["input_ids"].shape[1] :]
    assert texts("a red star", seed=3) == tokenizer.decode(tokens, skip_special_tokens=True)
    torch.set_rng_state(before)
    better = genscale.scale(texts, "best_of_n", many_letters, candidates=6)
    first, second = better(["a red star", "a dog"], seed=3), better("a dog", seed=3)
    assert first.texts[1] == second.texts[0]
    assert len({e.total for s in first.search.searches for e in s.finals}) > 1
    assert torch.equal(torch.get_rng_state(), before)


def test_arms_of_a_token_model() -> None:
    texts = genscale.token_texts(*decoder(), max_new_tokens=6)
    better = genscale.scale(
        texts, "arms", many_letters, arms=[{"max_new_tokens": 2}, {"max_new_tokens": 12}], candidates=8
    )
    found = better.search("a", seed=1)
    mean = [
        [e.total for e in found.searches[0].finals if e.candidate.details.get("arm", 0) == a] for a in (0, 1)
    ]
    assert sum(mean[1]) > sum(mean[0])


def test_another_model_does_not_resume(tmp_path: Path) -> None:
    texts = genscale.token_texts(*decoder(), max_new_tokens=6)
    genscale.scale(texts, "best_of_n", many_letters, candidates=2, out=tmp_path / "run")("a", seed=1)
    other = genscale.token_texts(*decoder(), max_new_tokens=7)
    with pytest.raises(UsageError, match="holds another run"):
        genscale.scale(other, "best_of_n", many_letters, candidates=2, out=tmp_path / "run")("a", seed=1)


@pytest.mark.parametrize(
    ("model", "options", "why"),
    [
        (object(), {}, "needs a model with `generate`"),
        (None, {"do_sample": False}, "do_sample is not for token_texts"),
        (None, {"num_beams": 4}, "num_beams is not for token_texts"),
    ],
)
def test_what_is_no_sampled_text_is_refused(model: Any, options: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        genscale.token_texts(model or decoder()[0], decoder()[1], **options)
