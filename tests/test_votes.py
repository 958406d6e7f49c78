"""Majority votes on the answers of texts, and HEX: several block lengths, ties to the smallest."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import genscale
from genscale import UsageError
from genscale.engine.ensembles import votes
from genscale.engine.verifier_roles import verifier_set
from genscale.media import Media
from genscale.media_items import TEXT
from tests.masked_texts import CALL, text_pipeline

WHOLE = "ignore:.*called as a whole:UserWarning"


def winner(answers: list[str], last: bool = False) -> str:
    """By hand: the answer of most; of equals the one that is given first, or (last, wrong) given last."""
    counts = Counter(answers)
    most = max(counts.values())
    return next(a for a in (reversed(answers) if last else answers) if counts[a] == most)


def test_votes_are_the_numbers_of_equal_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        labels = torch.randint(-1, 4, (12,), generator=generator).double()
        counts = Counter(labels.tolist())
        want = [0 if label < 0 else counts[label] for label in labels.tolist()]
        assert votes(labels[:, None], torch.ones(1)).tolist() == want
    assert votes(torch.zeros(3, 0), torch.zeros(0)).tolist() == [0, 0, 0]


def test_answers_are_numbers_that_a_float_holds() -> None:
    texts = ["42", " 42\n", "43", "the answer is 42", ""]
    judge = genscale.make_verifier("answers")
    plain = judge(Media(texts, TEXT), [])
    assert plain[0] == plain[1]
    assert len(set(plain.tolist())) == 4
    read = genscale.make_verifier("answers", read=lambda t: t.strip().split()[-1] if t.strip() else None)
    found = read(Media(texts, TEXT), [])
    assert found[0] == found[1] == found[3] == plain[0]
    assert found[4] == -1
    assert all(float(x) == int(x) < 2**48 for x in found.tolist())
    with pytest.raises(UsageError, match="read of answers gave 3: it must give a text"):
        genscale.make_verifier("answers", read=lambda text: 3)(Media(["a"], TEXT), [])


def test_answers_are_counted_and_nothing_else_is() -> None:
    answers = genscale.make_verifier("answers")
    with pytest.raises(UsageError, match="gives answers, which are counted: use ensemble='vote'"):
        verifier_set(answers, "weighted")
    with pytest.raises(
        UsageError, match="a vote counts equal answers, and verifier 'compressibility' gives scores"
    ):
        verifier_set("compressibility", "vote")
    with pytest.raises(UsageError, match="a vote has no weights"):
        verifier_set((answers, 2.0), "vote")
    with pytest.raises(UsageError, match="needs scores that do not depend on the other candidates"):
        genscale.scale(said, "best_of_n", answers, ensemble="vote", stop="patience:2")("a", seed=0)


def said(prompt: str, seed: int, block_length: int = 1) -> str:
    """An answer for each block length: the prompt's letter at its place."""
    return f" {prompt[block_length - 1]} "


@pytest.mark.parametrize("alphabet", ["ab", pytest.param("abc", marks=pytest.mark.slow)])
def test_every_vote_of_the_block_lengths_is_the_one_by_hand(alphabet: str) -> None:
    """All answers that block lengths 1 to 4 can give; the lengths are given in the wrong order."""
    wrong = 0
    for letters in itertools.product(alphabet, repeat=4):
        hex_ = genscale.block_ensemble(said, block_lengths=(4, 2, 1, 3), seeds=1, temperature=None)
        found = hex_("".join(letters), seed=0)
        want = winner(list(letters))
        assert found.texts[0].strip() == want
        assert found.search.total(found.search.ranking()[0]) == letters.count(want)
        wrong += want != winner(list(letters), last=True)
    assert wrong >= 4  # ties to the largest block length are another rule, which this would find


def noisy(prompt: str, seed: int, block_length: int, temperature: float) -> str:
    """Right with a chance that depends on the block length."""
    assert temperature == 0.9
    chance = {1: 0.9, 2: 0.4, 4: 0.6}[block_length]
    drawn = float(torch.rand(1, generator=torch.Generator().manual_seed(seed)))
    return "right" if drawn < chance else f"wrong{int(drawn * 1000) % 2}"


def test_several_texts_of_each_length_vote(tmp_path: Path) -> None:
    made = genscale.block_ensemble(noisy, block_lengths=(1, 2, 4), seeds=3, out=tmp_path)
    found = made(["a", "b"], seed=3)
    for i in range(2):
        finals = found.search.searches[i].finals
        assert [e.candidate.details.get("arm", 0) for e in finals] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        texts = list(found.search.media(finals))
        best = found.search.ranking(i)[0]
        assert found.search.media([best])[0] == winner(texts) == found.texts[i]
        assert [found.search.total(e) for e in finals] == [Counter(texts)[t] for t in texts]
    again = genscale.block_ensemble(noisy, block_lengths=(1, 2, 4), seeds=3, out=tmp_path)(["a", "b"], seed=3)
    assert again.texts == found.texts
    assert again.search.ledger.nfe == 0
    less = genscale.block_ensemble(noisy, block_lengths=(1, 2, 4), seeds=3, budget="7images")("a", seed=3)
    arms = Counter(e.candidate.details.get("arm", 0) for e in less.search.searches[0].finals)
    assert arms == {0: 2, 1: 2, 2: 3}


def test_a_text_without_an_answer_has_no_vote() -> None:
    def write(prompt: str, seed: int, block_length: int) -> str:
        return "hm" if block_length < 3 else "answer: 4"

    def read(text: str) -> str | None:
        return text.split(": ")[1] if ": " in text else None

    found = genscale.block_ensemble(write, read, block_lengths=(1, 2, 3), seeds=1, temperature=None)(
        "a", seed=0
    )
    assert found.texts == ["answer: 4"]
    assert [found.search.total(e) for e in found.search.ranking()] == [1, 0, 0]


@pytest.mark.filterwarnings(WHOLE)
def test_it_is_the_pipelines_own_texts_that_vote() -> None:
    pipe = text_pipeline()
    given = {**CALL, "eos_early_stop": False}
    made = genscale.block_ensemble(pipe, block_lengths=(2, 4, 8), seeds=2, batch_size=3)
    found = made("abc", generator=torch.Generator().manual_seed(7), **given)
    [plain] = pipe(
        "abc", generator=torch.Generator().manual_seed(7), block_length=2, temperature=0.9, **given
    ).texts
    finals = found.search.searches[0].finals
    texts = list(found.search.media(finals))
    assert texts[0] == plain
    assert len(set(texts)) > 3
    assert found.texts[0].strip() == winner([text.strip() for text in texts])


@pytest.mark.filterwarnings(WHOLE)
def test_temperature_0_is_warned_of() -> None:
    pipe = text_pipeline()
    search = genscale.scale(
        pipe, "best_of_n", genscale.make_verifier("answers"), ensemble="vote", candidates=3
    )
    with pytest.warns(UserWarning, match="draws nothing at temperature=0.0 .*give temperature=0.9"):
        found = search("abc", generator=torch.Generator().manual_seed(0), **CALL)
    assert [found.search.total(e) for e in found.search.ranking()] == [3, 3, 3]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*draws nothing")
        search("abc", generator=torch.Generator().manual_seed(0), temperature=0.9, **CALL)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block_lengths": ()}, "block_lengths=.* must be different whole numbers"),
        ({"block_lengths": (4, 4)}, "block_lengths=.* must be different whole numbers"),
        ({"seeds": 0}, "seeds=0 must be"),
        ({"temperature": 0.0}, "temperature=0.0 would make all texts of one block length the same"),
        ({"read": "last"}, "read='last' of answers must be a function|refuses"),
    ],
)
def test_bad_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        genscale.block_ensemble(said, **given)


def test_several_texts_of_one_call_are_refused() -> None:
    def two(prompt: str, seed: int) -> list[str]:
        return ["a", "b"]

    with pytest.raises(UsageError, match="gave 2 texts for one call"):
        genscale.scale(two, "best_of_n", genscale.make_verifier("answers"), ensemble="vote", candidates=2)(
            "a", seed=0
        )
