"""Prompts from text files: lines end only at line ends, and every character of a prompt is kept."""

import csv
import io
import json

import pytest

from genscale.demo.form import text_lines
from genscale.errors import UsageError
from genscale.runs.prompt_files import read_prompts

# str.splitlines splits at all of these; files of prompts must not.
INSIDE = ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
LANGUAGES = [
    "三个绿色的圆",
    "ثلاث دوائر خضراء",
    "три круга",
    "तीन वृत्त",
    "สามวงกลม",
    "👩🏽‍🚀 🇫🇷 🐈",
    "שלושה עיגולים",
]
ENDS = ["\n", "\r\n", "\r"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le with mark", "utf-16-be with mark"]


def encoded(text, encoding):
    if encoding.endswith(" with mark"):
        text, encoding = "\ufeff" + text, encoding.removesuffix(" with mark")
    return text.encode(encoding)


def written(kind, prompts, end):
    if kind == "txt":
        return end.join(["# a comment", *prompts, ""])
    if kind == "jsonl":
        return end.join(json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts) + end
    if kind == "json":
        return json.dumps(prompts, ensure_ascii=False, indent=1).replace("\n", end)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",", lineterminator=end)
    writer.writerows([["prompt"], *([p] for p in prompts)])
    return text.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ENDS, ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv", "tsv"])
def test_every_character_of_a_prompt_is_kept(kind, end, encoding, tmp_path):
    # JSON allows control characters only as escapes, which json.dumps writes
    prompts = [*(f"a star{mark}and a ring" for mark in INSIDE), *LANGUAGES]
    path = tmp_path / f"p.{kind}"
    path.write_bytes(encoded(written(kind, prompts, end), encoding))
    assert read_prompts(path) == prompts


def test_a_field_of_csv_may_have_lines(tmp_path):
    (tmp_path / "p.csv").write_bytes(b'prompt,n\r\n"a star\r\nand a ring",1\r\nb,2\r\n')
    assert read_prompts(tmp_path / "p.csv") == ["a star\r\nand a ring", "b"]


@pytest.mark.parametrize(
    "data", ["три".encode("cp1251"), "a star\n".encode("utf-16-le") + b"\xff\xd8", b"\xff\xfea"]
)
def test_other_encodings_are_refused(data, tmp_path):
    (tmp_path / "p.txt").write_bytes(data)
    with pytest.raises(UsageError, match=r"is not UTF-8 text, nor UTF-16 .*: save it as UTF-8\.$"):
        read_prompts(tmp_path / "p.txt")


def test_the_text_field_of_the_demo_splits_alike():
    assert text_lines("a\u2028b\r\nc\x0cd\n") == ["a\u2028b", "c\x0cd", ""]
