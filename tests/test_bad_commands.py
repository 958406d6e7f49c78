"""Command lines that cannot be carried out: one sentence, exit code 2, and nothing written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genscale.runs import prepared_run
from tests.bad_commands import Case, table, write_files

PER_TEST = 24
CASES = table()
random.Random(1).shuffle(CASES)
BATCHES = [CASES[i : i + PER_TEST] for i in range(0, len(CASES), PER_TEST)]
QUICK = 6  # batches of the default run: 144 command lines


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    Image.new("RGB", (16, 16)).save(folder / "good.png")
    return folder


@pytest.fixture(autouse=True)
def _one_model(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled model is loaded once for all lines."""
    kept, load = _PIPES, prepared_run.load_model

    def shared(request: Any, images: Any = ()) -> Any:
        if request.model not in ("shapes-flow", "shapes-video") or request.device or request.device_map:
            return load(request, images)
        plain = (
            request.model,
            request.dtype,
            request.lora,
            request.attention,
            request.offload,
            request.clips,
        )
        if plain not in kept:
            kept[plain] = load(request, images)
        return kept[plain]

    monkeypatch.setattr(prepared_run, "load_model", shared)


_PIPES: dict[Any, Any] = {}


def found_in(folder: Path) -> set[tuple[str, int]]:
    return {(str(p), p.stat().st_mtime_ns) for p in folder.rglob("*")}


def faults(case: Case, files: Path, genscale: Any) -> list[str]:
    """What is wrong with how a command line is refused."""
    words = [w.replace("{dir}", str(files)).replace("{long}", "n" * 300) for w in case[1]]
    before, here = found_in(files), found_in(Path.cwd())
    code, out, err = genscale(*words)
    lines = [line for line in err.splitlines() if line.strip()]
    wrong = []
    if code != 2:
        wrong.append(f"exit code {code}")
    if len(lines) != 1 or not lines[0].startswith("genscale: ") or "Traceback" in err + out:
        wrong.append(f"not one sentence: {err[:600]!r}")
    if out:
        wrong.append(f"printed {out[:80]!r}")
    if found_in(files) != before or found_in(Path.cwd()) != here:
        wrong.append("wrote something")
    return wrong


@pytest.mark.parametrize(
    "batch", [pytest.param(i, marks=() if i < QUICK else pytest.mark.slow) for i in range(len(BATCHES))]
)
def test_bad_command_lines_are_one_sentence(
    batch: int, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genscale: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [(case[1], wrong) for case in BATCHES[batch] if (wrong := faults(case, files, genscale))]
    assert not found, "\n".join(f"{[w[:80] for w in words]}: {wrong}" for words, wrong in found)


def test_the_table_is_long_and_seeded() -> None:
    assert len(CASES) >= 400
    assert len(BATCHES) > QUICK
    assert [line for _, line in table()] == [line for _, line in table()]
    assert len({tuple(line) for _, line in CASES}) > 0.97 * len(CASES)
