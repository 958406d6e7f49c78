"""Every command and every Python block of README and docs runs; scripts of hours are parsed by their own parsers."""

from __future__ import annotations

import argparse
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import doc_stand_ins as stand_ins
from tests.doc_blocks import ROOT, Block, blocks, commands, pages, spans
from tests.doc_cuts import cut, cut_command
from tests.doc_words import program, wrong
from tests.quick import quick

Command = Callable[..., tuple[int, str, str]]
CI = (ROOT / ".ci" / "run").read_text()
SHOWN = {"text", "json", "toml", "html", ""}  # languages of blocks that are no code to run


@pytest.fixture(scope="module")
def furniture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furniture")
    stand_ins.furnish(folder)
    return folder


@pytest.fixture
def here(furniture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run a page in."""
    for thing in furniture.iterdir():
        if thing.is_dir():
            (tmp_path / thing.name).symlink_to(thing)
        else:  # a page may write a file of the same name
            shutil.copy(thing, tmp_path)
    stand_ins.install(monkeypatch, furniture)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- running a block


class Parsed(Exception):
    """A script's own parser took its options."""


def run_block(block: Block, names: dict[str, Any], genscale: Command) -> None:
    """Run it, or say what is wrong. names: what the Python of this page has made so far."""
    if block.title:
        Path(block.title).write_text(block.code)
    elif block.language == "python":
        code = compile(cut(block.code), "block", "exec")
        exec(code, names)
    elif block.language == "sh":
        for words in commands(block.code):
            run_command(words, genscale)
    else:
        assert block.language in SHOWN, (
            f"a block of '{block.language}': neither run nor known to be shown only"
        )


def run_command(words: list[str], genscale: Command) -> None:
    name = words[0].rpartition("/")[2]
    if name == "genscale":
        code, _, err = genscale(*cut_command(words[1:]))
        assert code == 0, f"{' '.join(words)}: exit code {code}\n{err}"
    elif name in ("python", "python3") and words[1] == "-m" and words[2] in ("venv", "pytest"):
        assert " ".join(words[1:3]) in CI, f"{' '.join(words)}: CI does not run it"
    elif name in ("python", "python3"):
        parse_script(words[1:])
    elif name == "pip":
        check_install(words[1:])
    elif name == "mkdocs":
        assert " ".join(words) in ("mkdocs build --strict", "mkdocs serve")  # the first is tests/test_site.py
    else:
        raise AssertionError(f"{' '.join(words)}: no way to run this is known")


def parse_script(words: list[str]) -> None:
    """A script of hours: its options are read by its own parser, and there it ends."""
    if words[0] == "-m":
        run, name, options = runpy.run_module, words[1], words[2:]
    else:
        run, name, options = runpy.run_path, str(ROOT / words[0]), words[1:]
    parse = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        parse(self, *args, **kwargs)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        patch.setattr(sys, "argv", [name, *options])
        patch.syspath_prepend(str(ROOT))
        with pytest.raises(Parsed):
            run(name, run_name="__main__")


def check_install(words: list[str]) -> None:
    """Nothing is installed by a test: extras that are named must be there."""
    assert words[0] == "install"
    project = (ROOT / "pyproject.toml").read_text()
    for word in words[1:]:
        if extras := re.fullmatch(r"(?:\.|genscale)\[([\w,]+)\]", word):
            for extra in extras[1].split(","):
                assert re.search(rf"^{extra} = \[", project, re.M), f"there is no extra '{extra}'"


# ---------------------------------------------------------------- the pages


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


# The other pages are slow: CI runs their code.
USUAL = ("README", "docs/tutorials/first-image")


@pytest.mark.parametrize("page", quick(pages(), [p for p in pages() if page_id(p) in USUAL]), ids=page_id)
def test_the_code_of_a_page_runs(page: Path, here: Path, genscale: Command) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page.read_text()):
        try:
            run_block(block, names, genscale)
        except (Exception, SystemExit) as error:
            raise AssertionError(
                f"{page_id(page)}.md:{block.line}: {type(error).__name__}: {error}"
            ) from error


def examples() -> list[list[str]]:
    """Of all commands' help, in its order: what looks at a run stands behind what makes it."""
    lines = [line.strip() for c in program().values() for line in (c.epilog or "").splitlines()]
    return [words for line in lines if line.startswith("genscale ") for words in commands(line)]


@pytest.mark.slow
def test_the_examples_of_the_help_run(here: Path, genscale: Command) -> None:
    assert len(examples()) > len(program())
    for words in examples():
        run_command(words, genscale)


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_commands_flags_and_files_in_the_text_are_there(page: Path) -> None:
    for span in spans(page.read_text()):
        assert wrong(span) == [], f"{page_id(page)}.md: `{span}`"


# ---------------------------------------------------------------- broken twins

WRONG = [
    "genscale shw DIR",
    "docs/particels.md",
    "genscale show --jsn",
    "--budgt 32nfe",
    "genscale tree --rounds 8",
]
RIGHT = ["genscale show DIR --json", "docs/*.md", "--rounds 8", "genscale generate --rounds 8", "scale(pipe)"]


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("sh", 'genscale generate "a red star" --budgt 32nfe'),
        ("sh", 'genscale compare "a red star" --sampler best_of_n --sampler smcc --budget 64nfe'),
        ("sh", "genscale shw runs/first"),
        ("sh", "python benchmarks/shapes.py --stepps 8"),
        ("sh", "python -m benchmarks.posterior digit"),
        ("sh", 'pip install -e ".[dox]"'),
        ("sh", "curl example"),
        ("python", "import genscale\ngenscale.scale(None, candidats=4)"),
        ("python", "genscale.scale"),
        ("jsonn", "{}"),
    ],
)
def test_what_is_wrong_is_seen(language: str, code: str, here: Path, genscale: Command) -> None:
    with pytest.raises((Exception, SystemExit)):
        run_block(Block(language, code, 1), {}, genscale)


@pytest.mark.parametrize("span", WRONG)
def test_what_is_wrong_in_the_text_is_seen(span: str) -> None:
    assert wrong(span)


@pytest.mark.parametrize("span", RIGHT)
def test_what_is_right_in_the_text_is_let_be(span: str) -> None:
    assert wrong(span) == []
