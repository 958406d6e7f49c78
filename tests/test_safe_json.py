"""JSON and text files that anybody may have written: read, or refused in one sentence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from genscale.errors import UsageError
from genscale.safe_json import JsonError, parse_json, read_bytes, read_json, read_text

DAMAGED = {
    "nothing": b"",
    "cut off": b'{"a": [1, 2',
    "two values": b"1 2",
    "not UTF-8": b'{"a": "\xff"}',
    "NUL": b'{"a": 1}\x00',
    "deep lists": b"[" * 100_000,
    "deep and closed": b"[" * 500 + b"]" * 500,
    "deep objects": b'{"a":' * 500 + b"1" + b"}" * 500,
    "digits": b"9" * 5_000,
    "half a character": b'{"a": "\\ud83d"}',
    "half a character as key": b'{"\\udc00": 1}',
    "UTF-16": "[1]".encode("utf-16"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("as_text", [True, False], ids=["text", "bytes"])
def test_damaged_json_is_one_sentence(name: str, as_text: bool) -> None:
    data: str | bytes = DAMAGED[name]
    if as_text:
        data = DAMAGED[name].decode("utf-8", errors="surrogateescape")
        if name == "not UTF-8":
            pytest.skip("a text has been decoded")
    with pytest.raises(JsonError) as caught:
        parse_json(data, "file 'x.json'", "write [1]")
    message = str(caught.value)
    assert message.startswith("file 'x.json' ")
    assert message.endswith(": write [1].")
    assert "\n" not in message
    assert len(message) < 200
    assert caught.value.reason in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2]", [1, 2]),
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}', {"a": "é"}),
        ('"\\ud83d\\ude00"', "😀"),
        ("1e5", 1e5),
    ],
)
def test_sound_json_is_read(text: str | bytes, value: object) -> None:
    assert parse_json(text, "x") == value


def test_a_hundred_levels_are_read_and_brackets_within_texts_count_as_text() -> None:
    assert parse_json("[" * 100 + "]" * 100, "x")
    assert parse_json('["' + "[" * 5_000 + '"]', "x") == ["[" * 5_000]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_infinite_numbers_are_refused_where_asked(number: str) -> None:
    assert not math.isfinite(parse_json(f'{{"a": [{number}]}}', "x")["a"][0])
    with pytest.raises(JsonError, match="not finite"):
        parse_json(f'{{"a": [{number}]}}', "x", finite=True)


@pytest.mark.parametrize("name", ["absent", "folder", "n" * 300, "a\x00b", "half\ud800"])
@pytest.mark.parametrize("read", [read_json, read_text, read_bytes])
def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path, name: str, read: object) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"file 'x' cannot be read: .*[.]$"):
        read(tmp_path / name, "file 'x'")  # type: ignore[operator]


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match="holds more than 1 MB"):
        read_bytes(Path("/dev/zero"), "file 'x'", limit=2**20)
