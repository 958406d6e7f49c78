"""A disk that is full at any moment: one sentence, nothing is lost, and the run goes on as if nothing had been."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genscale.engine.archive import read_archive
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.storage import durable_files
from tests.analytic import SAMPLERS, run
from tests.quick import quick

MOMENTS = 10


class Disk:
    """Counts what is written under a folder; from the `full`-th time on, nothing fits any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, half: bool = False) -> None:
        self.full: int | None = None
        self.count = 0
        self.half = half
        writers = ((durable_files, "_write_all"), (Path, "write_bytes"), (os, "replace"), (Path, "mkdir"))
        for owner, name in writers:
            monkeypatch.setattr(owner, name, self._limited(getattr(owner, name)))

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.full is not None and self.count >= self.full:
                if self.half and function.__name__ in ("_write_all", "write_bytes"):
                    function(args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return limited


@pytest.mark.parametrize("name", quick(SAMPLERS, ["best_of_n", "smc"]))
def test_a_search_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    disk = Disk(monkeypatch, half=True)
    settings: dict[str, Any] = {"budget": Budget(nfe=60), "batch_size": 4, "churn": 0.3}
    whole = run(SAMPLERS[name], folder=tmp_path / "whole", **settings)
    total, rng, refused = disk.count, random.Random(name), list[str]()
    for k in range(MOMENTS if name == "best_of_n" else 2):
        folder = tmp_path / str(k)
        disk.count, disk.full = 0, rng.randrange(1, total if k else total // 2)
        try:
            run(SAMPLERS[name], folder=folder, **settings)
        except UsageError as error:
            refused.append(str(error))
        else:  # more records were written together than in the whole run, so the disk was never full
            assert disk.count < disk.full
        assert not list(folder.rglob(".*"))
        disk.full = None
        resumed = run(SAMPLERS[name], folder=folder, **settings)
        for a, b in zip(resumed.winners, whole.winners, strict=True):
            assert (a.candidate, a.total) == (b.candidate, b.total)
            assert torch.equal(a.x, b.x)
        records = [[r | {"seconds": 0} for r in read_archive(f)] for f in (folder, tmp_path / "whole")]
        assert sorted(map(str, records[0])) == sorted(map(str, records[1]))
    assert refused
    said = r"cannot write to .* \(No space left on device\): make room"
    assert all(re.search(said, text) for text in refused)


def pixels(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in ("best.png", "base.png"):
        with Image.open(folder / name) as image:
            found[name] = image.tobytes()
    return found


@pytest.mark.parametrize("moments", quick([2, MOMENTS], [2]))
def test_a_command_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genscale: Any, moments: int
) -> None:
    disk = Disk(monkeypatch)
    words = ("generate", "a red star", "--candidates", 2, "--steps", 1, "--seed", 3, "--out")
    assert (
        genscale(*words, tmp_path / "first")[0] == 0
    )  # the first run of a process also fills caches of libraries
    disk.count = 0
    assert genscale(*words, tmp_path / "whole")[0] == 0
    total, rng, refused = disk.count, random.Random(moments), 0
    wanted = pixels(tmp_path / "whole")
    for k in range(moments):
        disk.count, disk.full = 0, rng.randrange(1, total if k else total // 2)
        code, out, err = genscale(*words, tmp_path / str(k))
        if disk.count >= disk.full:  # else more records were written together than in the whole run
            assert (code, out) == (2, ""), err
            told = [line for line in err.splitlines() if line.startswith("genscale: ")]
            assert len(told) == 1
            assert "No space left on device" in told[0]
            assert "Traceback" not in err
            refused += 1
        disk.full = None
        assert genscale(*words, tmp_path / str(k))[0] == 0
        assert pixels(tmp_path / str(k)) == wanted
        assert {p.name for p in (tmp_path / str(k)).iterdir()} == {
            p.name for p in (tmp_path / "whole").iterdir()
        }
    assert refused


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """The system's own refusal, in the middle of a file."""
    import resource

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(300)  # ends a child that hangs
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
        try:
            run(SAMPLERS["best_of_n"], folder=tmp_path, budget=Budget(nfe=600))
            os.write(write, b"done")
        except UsageError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 10_000).decode()
    assert "cannot write to" in told
    assert "File too large" in told
    kept = read_archive(tmp_path)
    assert len(kept) > 1
    whole = run(SAMPLERS["best_of_n"], budget=Budget(nfe=600))
    resumed = run(SAMPLERS["best_of_n"], folder=tmp_path, budget=Budget(nfe=600))
    assert resumed.winners[0].total == whole.winners[0].total
    assert resumed.ledger.evaluations < whole.ledger.evaluations
    assert read_archive(tmp_path)[: len(kept)] == kept


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write"
)
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    run(SAMPLERS["best_of_n"], folder=tmp_path, budget=Budget(nfe=60))
    (tmp_path / "latents").chmod(0o500)
    with pytest.raises(UsageError, match="cannot write to"):
        run(SAMPLERS["best_of_n"], folder=tmp_path, budget=Budget(nfe=600))


def test_the_disk_has_a_file_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, then the name; a line of the archive after the latents that it tells of."""
    told: list[str] = []

    def fsync(descriptor: int) -> None:
        told.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    def replace(source: Any, target: Any) -> None:
        told.append(f"name {Path(target).name}")
        rename(source, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    rename = os.replace
    monkeypatch.setattr(durable_files, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    run(SAMPLERS["best_of_n"], folder=tmp_path, budget=Budget(nfe=12))
    names = [n for n, event in enumerate(told) if event.startswith("name ")]
    assert names
    for n in names:
        file = told[n].removeprefix("name ")
        assert any(event.startswith("sync .partial-") and event.endswith(file) for event in told[:n])
        later = told[n:]
        assert later.index("sync latents") < later.index("sync archive.jsonl")
