"""What a command prints cannot be written: one sentence on stderr, no traceback, whatever Python holds back of it."""

from __future__ import annotations

import errno
import os
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from genscale.cli.app import main
from genscale.cli.execute import unforeseen


class Full(BytesIO):
    """A file on a full disk, or a pipe whose reader has gone."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.stand_in = open(os.devnull, "w")  # noqa: SIM115

    def fileno(self) -> int:
        return self.stand_in.fileno()

    def write(self, data: Any) -> int:
        raise OSError(self.number, "no more")


def printing(monkeypatch: pytest.MonkeyPatch, number: int, through: bool, stream: str = "stdout") -> None:
    """Let `sys.stdout` fail: at once, or where what was held back is written."""
    full = TextIOWrapper(Full(number), encoding="utf-8", write_through=through)
    monkeypatch.setattr(sys, stream, full)


COMMANDS = (["--version"], ["samplers"], ["samplers", "smc", "--json"], ["--help"])


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_full_disk_behind_stdout(
    words: list[str], through: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printing(monkeypatch, errno.ENOSPC, through)
    assert main(words) == 2
    assert capsys.readouterr().err == "genscale: what it prints cannot be written to stdout: no more.\n"
    sys.stdout.write("x" * 100_000)  # what comes later raises nothing
    sys.stdout.flush()


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_has_gone_wants_no_sentence(
    words: list[str], through: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printing(monkeypatch, errno.EPIPE, through)
    try:
        code: Any = main(words)
    except SystemExit as ended:
        code = ended.code
    assert code == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_refusal_keeps_its_code(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    printing(monkeypatch, errno.ENOSPC, True, stream)
    assert main(["samplers", "nope", "--json"]) == 2


def test_another_error_of_the_system_is_still_unforeseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    from genscale.cli import app

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(app, "app", refuse)
    assert main(["samplers"]) == 1
    assert "unforeseen" in capsys.readouterr().err
    assert "unforeseen" in unforeseen(OSError("x"))
