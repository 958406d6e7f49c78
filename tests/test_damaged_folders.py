"""Damaged run folders: every command says in one sentence what is wrong, and leaves the folder as it is."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from genscale.cli.app import main
from genscale.engine.journal import line_of
from genscale.errors import UsageError
from genscale.runs.lineage import families
from genscale.runs.load_result import load_result
from genscale.storage import typed_json
from tests.quick import quick, third

DEEP, LONG = "[" * 100_000, "9" * 5_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "run"
    words = ("--candidates", "3", "--steps", "2", "--seed", "3", "--out", str(out), "--json")
    assert main(["generate", "a red star", *words]) == 0
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- bytes

BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda data, rng: b"",
    "cut": lambda data, rng: data[: rng.randrange(1, len(data) - 1)],
    "zeros": lambda data, rng: b"\0" * len(data),
    "zeros and an end of line": lambda data, rng: b"\0" * len(data) + b"\n",
    "other bytes": lambda data, rng: rng.randbytes(len(data)) + b"\n",
    "one byte flipped": lambda data, rng: _flipped(data, rng.randrange(len(data) // 2, len(data) - 1)),
    "nested too deeply": lambda data, rng: DEEP.encode() + b"\n",
    "a number that is too long": lambda data, rng: b'{"seed": ' + LONG.encode() + b"}\n",
    "a list": lambda data, rng: b"[1, 2]\n",
    "a text": lambda data, rng: b'"text"\n',
    "null": lambda data, rng: b"null\n",
    "an empty object": lambda data, rng: b"{}\n",
}
FILES = ("request.json", "run.json", "archive.jsonl", "latents")
HARMLESS = {
    ("run.json", "an empty object"), ("archive.jsonl", "cut"), ("archive.jsonl", "empty"), ("archive.jsonl", "zeros"),
}  # fmt: skip
"""What is not noticed, or is mended: a record that says nothing, and an archive that ends early."""


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("kind", third(BYTES))
@pytest.mark.parametrize("file", FILES)
def test_damaged_bytes(run: Path, genscale: Any, file: str, kind: str) -> None:
    rng = random.Random(f"{file} {kind}")
    path = run / file if file != "latents" else rng.choice(sorted((run / file).iterdir()))
    path.write_bytes(BYTES[kind](path.read_bytes(), rng))
    before = content(run)
    commands = (
        [("rescore", run, "--verifier", "shapes")] if file == "latents" else [("show", run), ("tree", run)]
    )
    if (file, kind) in HARMLESS or (file, kind) == ("run.json", "one byte flipped"):
        commands = []
    if file != "run.json" and commands:
        commands.append(("resume", run))
    for command in commands:
        code, out, err = genscale(*command)
        assert (code, out, err.count("\n"), "Traceback" in err) == (2, "", 1, False), (command, err)
        assert str(path.name) in err or str(run) in err
        assert content(run) == before


def test_latents_that_were_exchanged_are_noticed(run: Path, genscale: Any) -> None:
    first, second, *_ = sorted((run / "latents").iterdir())
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    for command in (("rescore", run, "--verifier", "shapes"), ("resume", run)):
        code, _, err = genscale(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert "belongs to another candidate" in err
    for path in (first, second):
        path.unlink()
    assert genscale("resume", run)[0] == 0  # as it says: they are computed again


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("file", FILES)
def test_a_pipe_or_a_folder_in_place_of_a_file_is_not_waited_for(run: Path, genscale: Any, file: str) -> None:
    path = run / file if file != "latents" else sorted((run / file).iterdir())[-1]
    commands = {
        "request.json": [("resume", run), ("show", run)],
        "run.json": [("show", run), ("tree", run)],
        "archive.jsonl": [("resume", run), ("show", run)],
        "latents": [("rescore", run, "--verifier", "shapes")],
    }[file]
    for make in (os.mkfifo, os.mkdir):
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        before = sorted(run.rglob("*"))
        for command in commands:
            code, out, err = genscale(*command)
            if file in (
                "run.json",
                "latents",
            ):  # does without it: the run is not finished, the candidate not scored
                assert code in (0, 2), (command, err)
                assert "Traceback" not in err
                continue
            assert (code, out, err.count("\n"), "Traceback" in err) == (2, "", 1, False), (command, err)
            assert "make room" not in err
            assert sorted(run.rglob("*")) == before


# ---------------------------------------------------------------- types

WRONG = (3, -1, 1.5, [1], {"a": 1}, "text", None, True, 10**30, [], {}, "../elsewhere", "/etc/passwd")


def _paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, item in inner for path in _paths(item, (*here, key)))]


def _with(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    changed = json.loads(json.dumps(value))
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = wrong
    return changed


def _damaged(value: Any, rng: random.Random) -> Any:
    return _with(value, rng.choice(_paths(value)[1:]), rng.choice(WRONG))


def damaged_somewhere(run: Path, seed: int) -> None:
    """One value of one file is another one."""
    rng = random.Random(seed)
    file = ("request.json", "run.json", "archive.jsonl")[seed % 3]
    path = run / file
    if file == "archive.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        number = rng.randrange(len(lines))
        lines[number] = _damaged({k: v for k, v in lines[number].items() if k != "sum"}, rng)
        path.write_bytes(b"".join(map(line_of, lines)))  # forged: with the right checksum
    else:
        path.write_text(json.dumps(_damaged(json.loads(path.read_text()), rng)))


@pytest.mark.parametrize("seed", quick(range(60), range(12)))
def test_values_of_wrong_types_are_refused_or_do_not_matter(run: Path, seed: int) -> None:
    damaged_somewhere(run, seed)
    before = content(run)
    try:
        found = load_result(run)
        told = [found.table(), found.curve(), repr(found), families(run)]
    except UsageError as error:
        told = [str(error)]
    assert all(told)
    assert content(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 80))
def test_commands_on_values_of_wrong_types(run: Path, genscale: Any, seed: int) -> None:
    damaged_somewhere(run, seed)
    for command in (("tree", run), ("rescore", run, "--verifier", "shapes"), ("resume", run)):
        code, _, err = genscale(*command)
        assert code in (0, 2), err
        assert "Traceback" not in err


METADATA = {
    "clip": 3, "versions": [1], "file": 3, "shows": [1], "index": -1, "missing": [1], "is_base": "no", "request": [1],
    "prompt": 5,
}  # fmt: skip
REQUEST = {
    "sampler_fields": [1], "pipeline_args": [1], "width": -64, "steps": 0, "prompts": "a star", "verifiers": 3,
    "seed": -1, "guidance": "much", "lora": {"a": 1}, "model": 7, "nothing": 1,
}  # fmt: skip
SHOWN = {"key": [-1], "candidate": "first", "start": None, "details": [], "origin": 3}


@pytest.mark.parametrize(
    ("within", "name", "value"),
    [
        *((None, *item) for item in METADATA.items()),
        *(("request", *item) for item in REQUEST.items()),
        *(("shows", *item) for item in SHOWN.items()),
    ],
)
def test_metadata_of_wrong_types(run: Path, genscale: Any, within: str | None, name: str, value: Any) -> None:
    path = run / "best.png"
    with Image.open(path) as image:
        data = json.loads(image.text["genscale"])  # type: ignore[attr-defined]
        (data if within is None else data[within])[name] = value
        forged(image, run / "forged.png", json.dumps(data))
    before = content(run)
    code, out, err = genscale("replay", run / "forged.png")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert content(run) == before


@pytest.mark.parametrize("text", [DEEP, "[]", '{"request": ' + LONG + "}", "\x00", '{"request": {}}'])
def test_metadata_that_cannot_be_read(run: Path, genscale: Any, text: str) -> None:
    with Image.open(run / "best.png") as image:
        forged(image, run / "forged.png", text)
    code, out, err = genscale("replay", run / "forged.png")
    assert (code, out, err.count("\n")) == (2, "", 1), err


def forged(image: Image.Image, path: Path, text: str) -> None:
    info = PngInfo()
    info.add_itxt("genscale", text)
    image.save(path, pnginfo=info)


@pytest.mark.parametrize("command", ["show", "tree", "resume", "rescore", "replay", "score"])
def test_names_of_300_letters(genscale: Any, command: str) -> None:
    more = ("--verifier", "shapes") if command == "rescore" else ()
    code, out, err = genscale(command, "x" * 300, *more)
    assert (code, out, err.count("\n")) == (2, "", 1), err


# ---------------------------------------------------------------- the reader


def test_the_reader_says_where_what_is_wrong() -> None:
    hint = dict[str, list[typed_json.Count]]
    typed_json.check({"a": [1, 2]}, hint)
    for value, told in (
        ({"a": [1, "x"]}, r"it\['a'\]\[1\] is 'x', not a whole number"),
        ({"a": [-3]}, r"it\['a'\]\[0\] cannot be -3"),
        ([], "it is .*, not an object"),
        ({"a": [True]}, "not a whole number"),
    ):
        with pytest.raises(ValueError, match=told):
            typed_json.check(value, hint)


def test_the_reader_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        typed_json.read(path)
    for text in (DEEP, LONG, "{", "[]"):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"x\.json' cannot be read, it was damaged"):
            typed_json.read(path)
