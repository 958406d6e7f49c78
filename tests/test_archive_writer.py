"""The thread that writes an archive: in order, nothing is lost, and what fails is said."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from genscale.engine import archive_writer
from genscale.engine.archive import Archive, Entry, read_archive
from genscale.engine.budget import Budget
from genscale.engine.engine import Engine
from genscale.errors import UsageError
from genscale.protocol.answers import Prediction
from genscale.protocol.particles import Candidate, Particles
from tests.analytic import SAMPLERS, run


def particles(n: int, x: float = 1.0) -> Particles:
    return Particles(torch.full((n, 3), x), 2, tuple(Candidate(i, "prior", (i,)) for i in range(n)))


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The thread waits for it before each tensor that it writes."""
    go, save = threading.Event(), archive_writer.save_tensors

    def waiting(*args: Any) -> str:
        assert go.wait(60)
        return save(*args)

    monkeypatch.setattr(archive_writer, "save_tensors", waiting)
    return go


def test_the_search_does_not_wait_and_the_order_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, go = Archive(tmp_path, {}), held(monkeypatch)
    archive.add_solved(0, particles(2))
    archive.add_score(Entry(0, Candidate(7, "prior"), 6, True, {}, 0.5), fresh=True)
    assert len(read_archive(tmp_path)) == 1  # the heading; the thread is held
    go.set()
    archive.settle()
    assert [(r["kind"], r["candidate"]) for r in read_archive(tmp_path)[1:]] == [
        ("solve", 0), ("solve", 1), ("score", 7)
    ]  # fmt: skip
    archive.close()


def test_what_is_written_is_what_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the latents are written over before the thread comes to them."""
    archive, go, given = Archive(tmp_path, {}), held(monkeypatch), particles(1)
    archive.add_solved(0, given)
    given.x.zero_()
    go.set()
    archive.close()
    again = Archive(tmp_path, {})
    found = again.solved(0, given.candidates[0], 2)
    again.close()
    assert found is not None
    assert torch.equal(found.x, torch.ones(1, 3))


@pytest.mark.parametrize("when", ["add", "settle", "close"])
def test_a_failure_is_raised_by_the_next_call_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    archive = Archive(tmp_path, {})
    written = threading.Event()

    def fails(*args: Any) -> str:
        written.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive_writer, "save_tensors", fails)
    archive.add_score(Entry(0, Candidate(7, "prior"), 6, True, {}, 0.5), fresh=True)
    archive.add_solved(0, particles(1))
    assert written.wait(60)
    archive._writer._thread.join(0.1)  # let it leave the error
    call = {
        "add": lambda: archive.add_solved(0, particles(1)),
        "settle": archive.settle,
        "close": archive.close,
    }
    with pytest.raises(UsageError, match=r"cannot write to .*No space left"):
        call[when]()
    archive.close()
    assert [r["kind"] for r in read_archive(tmp_path)[1:]] == ["score"]  # what came before is kept


@pytest.mark.parametrize("edited", [False, True])
def test_a_prediction_is_stored_as_the_models_output(tmp_path: Path, edited: bool) -> None:
    given, value = particles(2), torch.rand(2, 3)
    seen = given.x + 1 if edited else given.x

    def predict(p: Particles, value: torch.Tensor, x: torch.Tensor) -> Prediction:
        return Prediction(x - value, x + value)

    archive = Archive(tmp_path, {})
    archive.add_predicted(0, given, value, seen)
    archive.close()
    again = Archive(tmp_path, {})
    found = again.predicted(0, given[[1]], predict)
    again.close()
    wanted = predict(given[[1]], value[[1]], seen[[1]])
    assert found is not None
    assert torch.equal(found.x0, wanted.x0)
    assert torch.equal(found.eps, wanted.eps)
    from safetensors.torch import load_file

    file = tmp_path / read_archive(tmp_path)[2]["file"]
    assert set(load_file(file)) == ({"value", "x"} if edited else {"value"})


def test_gradients_do_not_run_ahead_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one group gave is written before the next is answered, though the thread writes only when waited for."""
    go, waited, made = held(monkeypatch), list[int](), Engine.__init__
    add, settle = archive_writer.ArchiveWriter.add, archive_writer.ArchiveWriter.settle

    def overlapping(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs | {"overlapping": True})

    def noting(self: Any, records: Any) -> None:
        add(self, records)
        waited.append(len(self._waiting))

    def settling(self: Any) -> None:
        go.set()
        settle(self)
        go.clear()

    monkeypatch.setattr(Engine, "__init__", overlapping)
    monkeypatch.setattr(archive_writer.ArchiveWriter, "add", noting)
    monkeypatch.setattr(archive_writer.ArchiveWriter, "settle", settling)
    run(SAMPLERS["ditto2 until the budget ends"], budget=Budget(nfe=120), folder=tmp_path, batch_size=4)
    assert 0 < max(waited) <= 8


@pytest.mark.parametrize("name", ["best_of_n", "smc"])
def test_a_search_that_overlaps_its_writing_finds_and_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As on an accelerator. It ends in the middle, as if killed, and goes on."""
    settings: dict[str, Any] = {"budget": Budget(nfe=96), "churn": 0.3}
    whole = run(SAMPLERS[name], folder=tmp_path / "whole", **settings)
    made = Engine.__init__

    def overlapping(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs | {"overlapping": True})

    monkeypatch.setattr(Engine, "__init__", overlapping)
    left = [8]

    def on_batch(batch: Any, rows: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(SAMPLERS[name], folder=tmp_path / "part", on_batch=on_batch, **settings)
    resumed = run(SAMPLERS[name], folder=tmp_path / "part", **settings)
    assert resumed.winners[0].candidate == whole.winners[0].candidate
    assert torch.equal(resumed.winners[0].x, whole.winners[0].x)
    records = [sorted(str(r | {"seconds": 0}) for r in read_archive(tmp_path / f)) for f in ("whole", "part")]
    assert records[0] == records[1]
    assert resumed.ledger.evaluations < whole.ledger.evaluations
