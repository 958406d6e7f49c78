"""AdaBlock: without delimiters the pipeline itself, and blocks that end where the surest delimiter is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import genscale
from genscale import UsageError
from genscale.pipelines import adaptive_blocks as module
from tests.masked_texts import CALL, EOS, MASK, WORDS, text_pipeline

SOME = tuple(range(3, WORDS, 2))  # every other byte is a delimiter: a random model has no line ends
FIXED = ("\n",), math.inf


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "prompt", ["abc", *(pytest.param(p, marks=pytest.mark.slow) for p in ("a", "a longer prompt"))]
)
@pytest.mark.parametrize(
    "given",
    [
        {"block_length": 4, "temperature": 0.9},
        {"block_length": 3, "temperature": 0.7, "threshold": 0.02, "editing_threshold": None},
        {"block_length": 16, "temperature": 0.9, "top_k": 20, "editing_threshold": 0.02, "max_post_steps": 3},
        {"block_length": 5, "temperature": 0.0, "editing_threshold": None, "num_inference_steps": 2},
        {"block_length": 4, "temperature": 0.9, "eos_early_stop": False},
    ],
)
def test_without_a_delimiter_it_is_the_pipeline(given: dict[str, Any], prompt: str) -> None:
    pipe = text_pipeline(sharpness=3.0)
    pipe.eos_token_id = 100  # one that is drawn now and then
    call = {
        **CALL,
        "gen_length": 13,
        "editing_threshold": 0.5,
        "threshold": 0.7,
        "max_post_steps": 16,
        **given,
    }
    write = genscale.adaptive_blocks(pipe, *FIXED)
    calls: list[int] = []
    pipe.model.register_forward_hook(lambda module, given, made: calls.append(given[0].shape[1]))
    for seed in range(3):
        calls.clear()
        [plain] = pipe(prompt, generator=fresh(seed), **call).texts
        alone = calls.copy()
        calls.clear()
        assert write(prompt, fresh(seed), **call) == plain
        assert calls == alone  # with as many calls of the model, of as many tokens


def blocks_of(
    write: Any, seed: int, monkeypatch: pytest.MonkeyPatch, **given: Any
) -> list[tuple[int, int, Any]]:
    """(start, stop, tokens before) of each block of a text."""
    found: list[tuple[int, int, Any]] = []
    fill = module._Text.fill

    def watched(text: Any, start: int, stop: int, *rest: Any) -> None:
        found.append((start, stop, text.tokens.clone()))
        fill(text, start, stop, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module._Text, "fill", watched)
        write("ab", fresh(seed), **{**CALL, "gen_length": 40, "block_length": 8, **given})
    return found


def end_by_hand(pipe: Any, tokens: Any, start: int, least: float, first_one: bool = False) -> int:
    """Where a block of a prompt of two letters (and the end mark) and 40 tokens ends; first_one: the wrong rule."""
    begin, end = 3, 43
    first = max(start, begin)
    last = min(first + 10, end)
    view = tokens[:, :last]
    logits = pipe.model(view, torch.ones_like(view), torch.arange(last)[None]).logits[0]
    found = {}
    for place in range(first, last):
        chances = logits[place].softmax(-1)
        if int(chances.argmax()) in SOME:
            found[place] = float(chances.max())
    if not found or max(found.values()) < least:
        return start + 8
    return (min(found) if first_one else max(found, key=found.__getitem__)) + 1


@pytest.mark.parametrize("least", [0.0, 0.06])
def test_blocks_end_at_the_surest_delimiter(least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, wrong, usual = text_pipeline(sharpness=3.0), 0, 0
    write = genscale.adaptive_blocks(pipe, SOME, least)
    for seed in range(4):
        blocks = blocks_of(write, seed, monkeypatch, temperature=0.9, eos_early_stop=False)
        assert blocks[0][0] == 0
        assert [stop for _, stop, _ in blocks[:-1]] == [start for start, _, _ in blocks[1:]]
        assert blocks[-1][1] >= 43
        for start, stop, tokens in blocks:
            assert stop == end_by_hand(pipe, tokens, start, least)
            wrong += stop != end_by_hand(pipe, tokens, start, least, first_one=True)
            usual += stop == start + 8
    assert wrong > 0  # the first delimiter of the window is another rule, which this would find
    assert least == 0 or usual > 0


def test_every_token_is_made_and_it_is_searched(tmp_path: Path) -> None:
    pipe = text_pipeline(sharpness=3.0)
    write = genscale.adaptive_blocks(pipe, SOME, 0.0)
    given = {**CALL, "temperature": 0.9, "gen_length": 12, "eos_early_stop": False}
    answers = genscale.make_verifier("answers")
    better = genscale.scale(write, "best_of_n", answers, ensemble="vote", candidates=4, keep=4, out=tmp_path)
    found = better("ab", generator=fresh(3), **given)
    texts = list(found.search.media(found.search.searches[0].finals))
    assert texts[0] == write("ab", fresh(3), **given)
    assert len(set(texts)) > 1
    again = better("ab", generator=fresh(3), **given)
    assert again.texts == found.texts
    assert again.search.ledger.nfe == 0
    other = genscale.scale(
        genscale.adaptive_blocks(pipe, SOME, 0.5),
        "best_of_n",
        answers,
        ensemble="vote",
        candidates=4,
        out=tmp_path,
    )
    with pytest.raises(UsageError, match="holds another run"):
        other("ab", generator=fresh(3), **given)


def test_it_votes_and_is_warned_of_temperature_0() -> None:
    write = genscale.adaptive_blocks(text_pipeline(), SOME, 0.02)
    found = genscale.block_ensemble(write, block_lengths=(2, 4), seeds=2)("ab", generator=fresh(), **CALL)
    assert len(found.search.ranking()) == 4
    answers = genscale.make_verifier("answers")
    with pytest.warns(UserWarning, match="AdaptiveBlocks draws nothing at temperature=0.0"):
        genscale.scale(write, "best_of_n", answers, ensemble="vote", candidates=2)(
            "ab", generator=fresh(), **CALL
        )


def test_bad_values_are_refused() -> None:
    pipe = text_pipeline()
    for given, message in (
        ({"delimiter_threshold": 1.5}, "delimiter_threshold=1.5 must be in"),
        ({"window": 0.0}, "window=0.0 must be a share"),
        ({"delimiters": ("ab",)}, "the delimiter 'ab' is 2 tokens"),
    ):
        with pytest.raises(UsageError, match=message):
            genscale.adaptive_blocks(pipe, **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a LLaDA2Pipeline with its tokenizer, and was given str"):
        genscale.adaptive_blocks("LLaDA2")
    with pytest.raises(UsageError, match="no mask token: give mask_token_id="):
        genscale.adaptive_blocks(pipe)("a", gen_length=4)
    assert genscale.adaptive_blocks(pipe).delimiters == (ord("\n") + 3,)
    assert (pipe.eos_token_id, WORDS) == (EOS, MASK)
