"""One process at a time writes into a folder; who is refused changes and removes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from genscale.engine.archive import Archive, read_archive
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.report.output_folder import OutputFolder
from genscale.runs.run_folder import RunFolder
from genscale.storage.folder_lock import FILE, FolderLock
from tests.analytic import SAMPLERS, run

ROOT = Path(__file__).parents[1]

HOLD = """
import sys, time
from pathlib import Path
from genscale.storage.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
try:
    lock.acquire()
except ValueError as error:
    print("refused", error, flush=True)
    sys.exit(2)
print("taken", flush=True)
time.sleep(float(sys.argv[2]))
lock.release()
"""


def holder(folder: Path, seconds: float = 60.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().split(" ")[0].strip()


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    first = holder(tmp_path)
    assert said(first) == "taken"
    with pytest.raises(UsageError, match="another run is writing into"):
        FolderLock(tmp_path).acquire()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (tmp_path / FILE).exists()  # what is left of it keeps nobody out
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    """Twenty rounds of eight processes that take, hold and give back the lock of a folder, as fast as they can."""
    counter = tmp_path / "counter"
    folder = tmp_path / "folder"
    folder.mkdir()
    counter.write_text("0")
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            signal.alarm(300)  # ends a child that hangs
            code = 1
            try:
                done = 0
                while done < 20:
                    lock = FolderLock(folder)
                    try:
                        lock.acquire()
                    except UsageError:
                        continue
                    number = int(counter.read_text())  # lost updates would show two holders
                    time.sleep(0.0005)
                    counter.write_text(str(number + 1))
                    lock.release()
                    done += 1
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    assert counter.read_text() == "160"
    assert list(folder.iterdir()) == []


def test_another_thread_is_another_writer(tmp_path: Path) -> None:
    outer, inner = FolderLock(tmp_path), FolderLock(tmp_path)
    outer.acquire()
    inner.acquire()  # as a run in a folder that its command has claimed
    found: list[str] = []

    def other() -> None:
        try:
            FolderLock(tmp_path).acquire()
        except UsageError:
            found.append("refused")

    for expected in (["refused"], ["refused"] * 2):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert found == expected
        inner.release()
    outer.release()
    assert not (tmp_path / FILE).exists()


def test_an_archive_that_is_written_to_is_refused(tmp_path: Path) -> None:
    process = holder(tmp_path)
    assert said(process) == "taken"
    with pytest.raises(UsageError, match="another run is writing into"):
        run(SAMPLERS["best_of_n"], folder=tmp_path, budget=Budget(nfe=60))
    process.kill()
    process.wait()
    run(SAMPLERS["best_of_n"], folder=tmp_path, budget=Budget(nfe=60))
    assert len(read_archive(tmp_path)) > 1


TWO_COMMANDS = """
import os, sys
from genscale.cli.app import main

# What the commands need is loaded once, so that both begin at the same moment.
words = ["generate", "a red star", "--candidates", "2", "--steps", "1"]
assert main([*words, "--seed", "3", "--out", "first"]) == 0
for n in range(int(sys.argv[1])):
    children = []
    for seed in ("3", "4"):
        child = os.fork()
        if child == 0:
            with open(f"told {n} {seed}", "w") as file:
                os.dup2(file.fileno(), 2)
            code = 1
            try:
                code = main([*words, "--seed", seed, "--out", f"run {n}"])
            finally:
                os._exit(code)
        children.append(child)
    print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_commands_started_together_in_one_folder(tmp_path: Path) -> None:
    """Twenty times, with other seeds. One runs, whole and alone; the other is refused in a sentence."""
    rounds = 20
    started = subprocess.run(
        [sys.executable, "-c", TWO_COMMANDS, str(rounds)],
        # With one thread: a process that has used OpenMP's threads cannot fork children that use them, too.
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    codes = [line.split() for line in started.stderr.splitlines() if set(line) <= set("0123456789- ")]
    assert len(codes) == rounds, started.stderr
    for n, both in enumerate(codes):
        out = tmp_path / f"run {n}"
        told = [(tmp_path / f"told {n} {seed}").read_text() for seed in ("3", "4")]
        assert sorted(both) == ["0", "2"], told
        refused = told[both.index("2")].strip()
        assert refused.count("\n") == 0
        assert "another run is writing into" in refused or "holds another run" in refused
        seed = ("3", "4")[both.index("0")]
        assert f'"seed": {seed}' in (out / "request.json").read_text()
        assert read_archive(out)[0]["seeds"] == [int(seed)]
        for name in ("run.json", "best.png", "contact.png"):
            assert (out / name).is_file()
        assert not [p.name for p in out.rglob("*") if p.name.startswith(".")]


def test_who_is_refused_removes_nothing(tmp_path: Path) -> None:
    """Also where the folder was empty when it was looked at, and the other run's files came after."""
    mine, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    mine.claim()
    found: list[str] = []

    def second() -> None:
        try:
            other.claim()
        except UsageError as error:
            found.append(str(error))
            other.abandon()

    thread = threading.Thread(target=second)
    (mine.path / "request.json").write_text("{}")
    thread.start()
    thread.join()
    assert len(found) == 1
    assert (mine.path / "request.json").exists()
    mine.release()


def test_default_names_never_coincide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty threads that all see the same free name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    barrier, found = threading.Barrier(20), []

    def claim() -> None:
        barrier.wait()
        found.append(RunFolder.claimed(None))

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({folder.path for folder in found}) == 20
    for folder in found:
        folder.abandon()
    assert not Path("runs/now").exists()


def test_what_killed_processes_had_begun_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    latents = tmp_path / "latents"
    latents.mkdir()
    for pid in (ended.pid, os.getppid()):
        (tmp_path / f".partial-{pid}-best.png").write_text("")
        (latents / f".partial-{pid}-0-0-2.safetensors").write_text("")
    folder = OutputFolder(tmp_path)
    folder.claim()
    Archive(tmp_path, {"seed": 1}).close()
    folder.release()
    left: list[Any] = sorted(p.name for p in tmp_path.rglob(".partial*"))
    assert left == [f".partial-{os.getppid()}-0-0-2.safetensors", f".partial-{os.getppid()}-best.png"]
