"""text_in_image: quotes of prompts, edit distances against brute force, and the real recogniser on drawn signs."""

from __future__ import annotations

import builtins
import copy
import itertools
import random
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import registry
from genscale.verifiers import text_in_image as module
from genscale.verifiers.edit_distance import levenshtein, nearest_part
from genscale.verifiers.quoted_text import comparable, quoted_texts
from genscale.verifiers.text_in_image import TextInImage, spelled

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
OPEN = 'a sign that says "OPEN"'
CPU = torch.device("cpu")


# ---------------------------------------------------------------- quotes


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign that says "OPEN"', ["OPEN"]),
        ("a sign that says 'OPEN'", ["OPEN"]),
        ("“OPEN” and ‘SHUT’", ["OPEN", "SHUT"]),
        (
            "«ouvert», ‹fermé›, „offen“, „otwarte”, »zu«, ‚auf‘, »auki»",
            ["ouvert", "fermé", "offen", "otwarte", "zu", "auf", "auki"],
        ),
        ("「開店」『閉店』, 写着'开门'的招牌", ["開店", "閉店", "开门"]),
        ("the dog's sign says 'don't stop'", ["don't stop"]),
        ('the dogs\' sign says ‘it’s’ and "24 h"', ["it’s", "24 h"]),
        ("'a','b'", ["a", "b"]),
        ('a 6" ruler with the word "inch"', ["inch"]),
        ("“say 'hi'”", ["say 'hi'"]),
        ('" OPEN "', ["OPEN"]),
        ("a sign that says OPEN", []),
        ("O'Neill's pub, the dogs' home", []),
        ('an unfinished "quote', []),
        ('"" and " "', []),
        ("", []),
    ],
)
def test_quotes_of_the_usual_kinds_are_found(prompt: str, texts: list[str]) -> None:
    assert quoted_texts(prompt) == texts


def test_texts_are_compared_without_white_space_and_case() -> None:
    assert comparable(" Open\n24 H ") == "open24h"
    assert comparable("Open 24", case_sensitive=True) == "Open24"
    assert comparable("it’s ﬁne “Ｘ”") == comparable('it\'s fine "X"')
    assert comparable("STRASSE") == comparable("Straße")


# ---------------------------------------------------------------- edit distances


@cache
def slow(one: str, other: str) -> int:
    """By its recursive definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        slow(one[1:], other) + 1,
        slow(one, other[1:]) + 1,
        slow(one[1:], other[1:]) + (one[0] != other[0]),
    )


def words(longest: int, letters: str = "ab") -> list[str]:
    return ["".join(w) for n in range(longest + 1) for w in itertools.product(letters, repeat=n)]


def test_the_edit_distance_is_that_of_its_definition() -> None:
    for one, other in itertools.product(words(4), words(4)):
        assert levenshtein(one, other) == slow(one, other)
    assert levenshtein("kitten", "sitting") == 3


def by_hand(wanted: str, text: str) -> tuple[int, int, int]:
    """The nearest of all parts; of equals the longest, then the first."""
    places = itertools.combinations_with_replacement(range(len(text) + 1), 2)
    rated = [(slow(wanted, text[a:b]), a - b, a, b) for a, b in places]
    distance, _, start, stop = min(rated)
    return distance, start, stop


def test_the_nearest_part_is_the_nearest_of_all_parts() -> None:
    for wanted, text in itertools.product(words(3), words(5)):
        assert nearest_part(wanted, text)[0] == by_hand(wanted, text)[0]
        if by_hand(wanted, text)[0] < len(wanted):
            assert nearest_part(wanted, text) == by_hand(wanted, text)
    draw = random.Random(0)
    for _ in range(60):
        wanted, text = ("".join(draw.choices("abc", k=draw.randint(1, n))) for n in (5, 9))
        assert nearest_part(wanted, text) == by_hand(wanted, text)


# ---------------------------------------------------------------- the score of a text


def test_the_score_is_what_the_docstring_says() -> None:
    assert spelled("open", ["open"], 0.1) == 1
    assert spelled("", ["open"], 0.1) == 0
    assert spelled("opne", ["open"], 0) == 3 / 4  # "opn"
    assert spelled("xxxxopen", ["open"], 0.1) == pytest.approx(1 - 0.1 * 4 / 8)
    assert spelled("xxxxopen", ["open"], 0) == 1
    assert spelled("zzz", ["open"], 0.1) == 0
    assert spelled("opentill9", ["till9", "open"], 0.1) == 1  # in any order
    assert spelled("open", ["open", "open"], 0) == 0.5  # each needs one of its own
    assert spelled("openopen", ["open", "open"], 0) == 1
    assert spelled("open", ["open", "shuttt"], 0) == pytest.approx(4 / 10)  # by characters


def test_scores_are_in_range_and_grow_with_each_letter_that_is_right() -> None:
    draw = random.Random(1)
    for _ in range(100):
        wanted = ["".join(draw.choices("abcd", k=draw.randint(1, 6))) for _ in range(draw.randint(1, 3))]
        text = "".join(draw.choices("abcdx", k=draw.randint(0, 20)))
        assert 0 <= spelled(text, wanted, 1.0) <= spelled(text, wanted, 0.0) <= 1
    scores = [spelled("grand opening"[:n], ["grandopening"], 0) for n in range(14)]
    assert scores == sorted(scores)


# ---------------------------------------------------------------- the real recogniser


def sign(*lines: str, size: int = 256, points: int = 56) -> Tensor:
    """[3, size, size] in [0, 1]: white letters on red, a line below the other."""
    image = Image.new("RGB", (size, size), (180, 30, 30))
    pen, font = ImageDraw.Draw(image), ImageFont.truetype(str(FONT), points)
    for i, line in enumerate(lines):
        pen.text((size // 16, size // 8 + i * size // 3), line, font=font, fill=(255, 255, 255))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def reader() -> TextInImage:
    verifier = registry.make("verifier", "text_in_image", {})
    verifier.prepare([OPEN], CPU)
    assert isinstance(verifier, TextInImage)
    return verifier


def test_a_sign_with_the_text_beats_one_without(reader: TextInImage) -> None:
    """The rendered text scores 1, and the blank sign 0: the models that the package ships are really run."""
    scores = reader(Media(torch.stack([sign("OPEN"), sign()])), [OPEN] * 2)
    assert scores.tolist() == [1, 0]
    assert scores.dtype == torch.float64


@pytest.mark.slow
def test_scores_order_signs_by_how_much_of_the_text_they_have(reader: TextInImage) -> None:
    signs = [sign("OPEN"), sign("OPEN", "xyz"), sign("OPFN"), sign("OXYZ"), sign("37")]
    scores = reader(Media(torch.stack(signs)), [OPEN] * 5)
    assert scores.tolist() == [1, pytest.approx(1 - 0.1 * 3 / 7), 0.75, pytest.approx(0.25, abs=0.05), 0]


@pytest.mark.slow
def test_lines_are_joined_and_case_counts_where_it_is_asked_for(reader: TextInImage) -> None:
    media, prompts = Media(sign("grand", "opening", points=44)[None]), ['a banner, "Grand Opening"']
    assert reader(media, prompts).item() == 1
    strict = TextInImage(case_sensitive=True)
    assert strict(media, prompts).item() == pytest.approx(1 - 2 / 12)


@pytest.mark.slow
def test_neither_batch_nor_order_matters_and_videos_are_the_mean_of_their_frames(reader: TextInImage) -> None:
    pixels = torch.stack([sign("OPEN"), sign("SHUT"), sign("OPEN", "24 h")])
    prompts = [OPEN, "'SHUT' or «OPEN»", OPEN]
    whole = reader(Media(pixels), prompts)
    assert torch.equal(reader(Media(pixels.flip(0)), prompts[::-1]), whole.flip(0))
    for i in range(3):
        assert torch.equal(reader(Media(pixels[i : i + 1]), prompts[i : i + 1]), whole[i : i + 1])
    clip = reader(Media(pixels[None]), [OPEN])
    assert clip.item() == pytest.approx(reader(Media(pixels), [OPEN] * 3).mean().item())
    assert bool(whole.isfinite().all())


@pytest.mark.slow
def test_a_recogniser_of_the_user_is_read_from_its_file() -> None:
    import rapidocr

    own = Path(rapidocr.__file__).parent / "models" / "PP-OCRv6_rec_small.onnx"
    verifier = TextInImage(recogniser=str(own))
    verifier.prepare([OPEN], CPU)
    assert verifier.backbone == str(own)
    assert verifier(Media(sign("OPEN")[None]), [OPEN]).item() == 1


# ---------------------------------------------------------------- refusals


def refused(call: Any, *args: Any) -> str:
    with pytest.raises(UsageError) as error:
        call(*args)
    return str(error.value)


def test_prompts_that_quote_nothing_or_what_cannot_be_read_are_refused(reader: TextInImage) -> None:
    assert "no quoted text in the prompt 'a cat'" in refused(reader.prepare, [OPEN, "a cat"], CPU)
    assert "no quoted text" in refused(reader, Media(sign()[None]), ["a cat"])
    assert "cannot read 'ж'" in refused(reader.prepare, ["a sign that says «жук»"], CPU)
    reader.prepare(["«Grüße», 「開店」, 'ΑΘΗΝΑ'"], CPU)
    with pytest.raises(ValueError, match="1 images and 2 prompts"):
        reader(Media(sign()[None]), [OPEN, OPEN])


def test_settings_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    assert "is no share" in refused(lambda: TextInImage(other=-0.1))
    assert "is no share" in refused(lambda: TextInImage(confidence=1.5))
    assert "there is no file" in refused(TextInImage(recogniser=str(tmp_path / "none.onnx")).load)
    (tmp_path / "other.onnx").write_bytes(b"not a model")
    assert "cannot be loaded" in refused(TextInImage(recogniser=str(tmp_path / "other.onnx")).load)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "rapidocr":
            raise ImportError("none", name=name)
        return usual(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'genscale[ocr]'" in refused(TextInImage().load)


def test_copies_have_the_settings_and_not_the_models(reader: TextInImage) -> None:
    other = copy.deepcopy(reader)
    assert other == reader
    assert "_reader" not in vars(other)
    assert hash(other) == hash(reader)
    assert (reader.name, reader.backbone) == ("text_in_image", "PP-OCRv6 small")
    assert module.TAKEN not in comparable("a\0b".replace(module.TAKEN, ""))
