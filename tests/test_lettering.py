"""Text of any language in pictures: fonts, directions, cuts; at a cost that does not grow with the prompt."""

import importlib.util
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from genscale.report import contact_sheet, font_files, score_curves, text_runs
from genscale.report.contact_sheet import SheetRow, Tile
from genscale.report.figure_text import plain
from genscale.report.font_files import PILLOW, matplotlib_font
from genscale.report.lettering import DOTS, Lettering
from genscale.report.score_curves import Curve, CurvePanel
from genscale.report.text_runs import clusters, one_line, runs

HAS_NOTO = all(importlib.util.find_spec(name) for name in font_files.PACKAGES)
noto = pytest.mark.skipif(not HAS_NOTO, reason="the extra `fonts` is not installed")

EVERYWHERE = {
    "accents": "crème brûlée, naïve façade, Übergröße, señor",
    "Vietnamese": "một con mèo trắng ngồi trên bàn gỗ",
    "Russian": "три зелёных круга на столе",
    "Greek": "τρεις πράσινοι κύκλοι",
    "Arabic": "ثلاث دوائر خضراء على طاولة",
    "Hebrew": "שלושה עיגולים ירוקים",
    "symbols": "→ ✓ • × ≤ “quotes” – — …",
}
WITH_NOTO = {
    "Chinese": "三个绿色的圆圈在桌子上",
    "traditional Chinese": "三個綠色的圓圈",
    "Japanese": "テーブルの上に座っている猫",
    "Korean": "빨간 별과 파란 고리",
    "decomposed Korean": unicodedata.normalize("NFD", "빨간 별"),
    "Hindi": "मेज पर तीन हरे वृत्त",
    "Bengali": "তিনটি সবুজ বৃত্ত",
    "Tamil": "மூன்று பச்சை வட்டங்கள்",
    "Thai": "วงกลมสีเขียวสามวง",
    "Amharic": "ሦስት አረንጓዴ ክቦች",
    "emoji": "👩🏽‍🚀 🐈 🇫🇷 ❤️ 👨‍👩‍👧",
    "all together": "a cat 三个 ثلاث तीन สาม 🐈 three",
}
LANGUAGES = [*EVERYWHERE, *(pytest.param(name, marks=noto) for name in WITH_NOTO)]
TEXTS = EVERYWHERE | WITH_NOTO


def drawn(text, size=24, first=PILLOW):
    face = Lettering(size, first)
    image = Image.new("L", (round(face.width(text)) + 20, 2 * size))
    face.draw(ImageDraw.Draw(image), (10, size // 3), text, 255)
    return np.asarray(image)


def tile():
    return Tile(Image.new("RGB", (64, 64), "red"), "best", ("clip  0.3",), winner=True)


# ---------------------------------------------------------------- fonts


@pytest.mark.parametrize("first", [PILLOW, matplotlib_font()], ids=["sheets", "figures"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_letter_has_a_glyph(language, first):
    text = one_line(TEXTS[language])
    found = runs(text, first)
    assert sorted("".join(run.text for run in found)) == sorted(
        text
    )  # nothing lost, no code point written out
    for run in found:
        assert run.font.has("".join(c for c in run.text if not text_runs.joins(c)))
    letters = sorted({c for c in clusters(text) if c[0].isalpha()})[:6]
    shapes = [drawn(c, first=first) for c in letters]
    inks = {shape[shape > 0].tobytes() + bytes(shape.shape) for shape in shapes}
    assert len(inks) == len(letters)  # boxes would all look alike
    assert all(shape.any() for shape in shapes)


def test_the_font_of_pillow_has_what_is_said_of_it():
    """Its stand-in for a missing character is no letter of those."""
    font = ImageFont.load_default(20)
    box = bytes(font.getmask("\U0010fffe"))
    known = [chr(c) for c in font_files._characters(None)]
    assert all(bytes(font.getmask(c)) != box for c in known)
    assert bytes(font.getmask("中")) == box


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine without fonts but those that come with Pillow and matplotlib."""
    monkeypatch.setattr(font_files, "_of_packages", tuple)
    monkeypatch.setattr(font_files, "_of_system", tuple)
    font_files.font_with.cache_clear()
    yield
    font_files.font_with.cache_clear()


@pytest.mark.parametrize("language", WITH_NOTO)
def test_without_a_font_code_points_are_written(language, no_fonts):
    text = one_line(WITH_NOTO[language])
    shown = "".join(run.text for run in runs(text, PILLOW))
    missing = [c for c in text if not c.isascii() and not text_runs.joins(c) and not matplotlib_font().has(c)]
    assert missing
    assert all(f"<U+{ord(c):04X}>" in shown for c in missing)
    assert drawn(text).any()


@pytest.mark.parametrize("language", EVERYWHERE)
def test_fonts_that_come_with_python_packages_are_enough_for_many(language, no_fonts):
    assert "<U+" not in "".join(run.text for run in runs(one_line(EVERYWHERE[language]), PILLOW))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x07b", "a<U+0007>b"),
        ("a\ud800b", "a<U+D800>b"),
        ("\U000f0000", "<U+F0000>"),
        ("a\ufeffb\u200ec\u00ad", "abc"),
        ("a\u2028b\tc\r\n d", "a b c d"),
    ],
)
def test_characters_that_are_no_letters(text, shown):
    assert "".join(run.text for run in runs(one_line(text), PILLOW)) == shown
    drawn(text)


def test_a_damaged_font_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "a.ttf").write_bytes(b"\0\1\0\0 no font")
    monkeypatch.setattr(font_files, "_of_packages", lambda: (font_files.FontFile(tmp_path / "a.ttf"),))
    font_files.font_with.cache_clear()
    try:
        assert font_files.font_with("ж", PILLOW) == matplotlib_font()
    finally:
        font_files.font_with.cache_clear()


@noto
@pytest.mark.parametrize(
    ("text", "country"), [("直骨", "SC"), ("直骨の", "JP"), ("직骨", "KR"), ("直骨ㄅ", "TC")]
)
def test_chinese_characters_are_those_of_the_language(text, country):
    (run,) = runs(text, PILLOW)
    assert run.font.sized(20).getname()[0].split(" ")[-1] == country


# ---------------------------------------------------------------- directions


@pytest.mark.parametrize(
    ("text", "shown"),  # the letters as they stand from left to right, by the Unicode bidirectional algorithm
    [
        ("אבג", "גבא"),
        ("a אבג b", "a גבא b"),
        ("אב cd הו", "וה cd בא"),
        ("אב 12 גד", "דג 12 בא"),
        ("אב 1,5% גד", "דג 1,5% בא"),
        ("a אב 12 b", "a 12 בא b"),
        ("אב (cd) ה", "ה (cd) בא"),
        ("ab (הו) c", "ab (וה) c"),
        ("אב, cd!", "!cd ,בא"),
        ("אב ...", "... בא"),
    ],
)
def test_lines_are_in_the_order_of_drawing(text, shown):
    """With brackets as they look: those of a text from the right are mirrored."""
    mirrored = str.maketrans("()", ")(")
    found = [r.text[::-1].translate(mirrored) if r.right_to_left else r.text for r in runs(text, PILLOW)]
    assert "".join(found) == shown


def test_arabic_is_joined_and_begins_at_the_right():
    if Lettering(24, matplotlib_font()).first.sized(24).layout_engine != ImageFont.Layout.RAQM:
        pytest.skip("this Pillow has no Raqm")
    face = Lettering(24, matplotlib_font())
    assert face.width("ببب") < 0.8 * 3 * face.width("ب")  # letters alone are wider
    image = drawn("ااااا ب", first=matplotlib_font())  # beh, a wide letter, is read last
    columns = (image > 0).any(0).nonzero()[0]
    left = image[:, columns[0] : columns[0] + 12] > 0
    right = image[:, columns[-1] - 11 : columns[-1] + 1] > 0
    assert left.any(0).mean() == 1 > right.any(0).mean()


# ---------------------------------------------------------------- cuts


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [60, 137, 400])
def test_no_line_is_wider_than_asked_for(language, width):
    face, text = Lettering(20), one_line(TEXTS[language] * 20)
    cut = face.fitted(text, width)
    assert cut.endswith(DOTS)
    assert text.startswith(cut.removesuffix(DOTS))
    lines = face.wrapped(text, width, 3)
    assert len(lines) == 3
    for line in (cut, *lines):
        assert face.width(line) <= width or len(clusters(line)) == 1
    whole = face.wrapped(text, width, 10_000)
    assert "".join("".join(whole).split()) == "".join(text.split())  # nothing lost
    parts = clusters(text)
    assert all(part in parts for part in clusters(whole[0]) if part != " ")  # no letter without its marks


@pytest.mark.parametrize(
    "letters", ["a red star, ", "word", "三", "قطة ", "👩🏽‍🚀", "e\u0301\u0302", "(", "+"]
)
def test_the_work_does_not_grow_with_the_prompt(letters, monkeypatch):
    seen = []
    width = Lettering._width
    monkeypatch.setattr(Lettering, "_width", lambda self, text: seen.append(len(text)) or width(self, text))

    def work(length):
        seen.clear()
        text = (letters * length)[:length]
        contact_sheet.sheet([SheetRow(text, (tile(),))], text)
        return sum(seen)

    assert work(100_000) <= 1.1 * work(2_000)


def test_a_long_prompt_takes_three_lines_of_a_sheet():
    short, long = (contact_sheet.sheet([SheetRow("a red star " * n, (tile(),))], "t") for n in (1, 900))
    assert long.height - short.height == 2 * contact_sheet.LINE
    again = contact_sheet.sheet([SheetRow("a red star " * 90_000, (tile(),))], "t")
    assert again.tobytes() == long.tobytes()


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(
    "title", ["a red star", "", "قطة $x$", "a $100 bill and $5", "中文 🐈", "\\frac{ $\\alpha$", "x " * 9999]
)
def test_titles_of_figures(title, tmp_path):
    panels = [CurvePanel(f"clip {title[:9]}", [Curve(f"c {title[:9]}", [[(1.0, 0.1), (2.0, 0.3)]])])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns about missing glyphs
        score_curves.draw(panels, title, tmp_path / "a.png")
        score_curves.draw(panels, "", tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        differs = (
            np.asarray(a.convert("L"), int)[:28] != np.asarray(b.convert("L"), int)[:28]
            if title
            else np.ones(1)
        )
        ink = np.asarray(a.convert("L"))[:28] < 250
        assert differs.any()
        assert not ink[:, -5:].any()  # nothing is cut off at the right


def test_labels_say_the_code_points_that_the_font_lacks():
    assert plain("a 中\x07é") == "a <U+4E2D><U+0007>é"


def test_without_raqm_lines_from_the_right_are_still_in_order(monkeypatch):
    """Pillow then draws letters one by one from the left, so they are reversed before."""
    shaped = drawn("אבג (דה)", first=matplotlib_font())
    monkeypatch.setattr(ImageFont.core, "HAVE_RAQM", False)
    font_files._sized.cache_clear()
    try:
        assert matplotlib_font().sized(24).layout_engine == ImageFont.Layout.BASIC
        plain = drawn("אבג (דה)", first=matplotlib_font())
        drawn("قطة 👩🏽‍🚀 a", first=matplotlib_font())
    finally:
        font_files._sized.cache_clear()
    assert np.array_equal(shaped, plain)
