"""The archive: everything that was found, written as it goes, whole after any kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genscale.engine.archive import Archive, Entry, read_archive
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.protocol.particles import Candidate, Memory, Particles, cat
from tests.analytic import SAMPLERS, run

CANDIDATE = Candidate(3, "neighbour", (1, 2**32 - 1), 1, 0, {"cosine": 0.95})
MEMORY = Memory(
    {"last": torch.full((1, 3), 0.1, dtype=torch.bfloat16)}, {"steps": 4, "past": [1.5, None, "a"]}
)
PARTICLES = Particles(torch.rand(1, 3, dtype=torch.float64), 4, (CANDIDATE,), MEMORY, torch.rand(1, 3))
ENTRY = Entry(0, CANDIDATE, 6, True, {"a": 0.1}, 0.1, {"b": 1.0}, {"c": 2.0}, 12, 0.5)


def test_what_is_stored_comes_back_bit_for_bit(tmp_path: Path) -> None:
    archive = Archive(tmp_path, {"seed": 1})
    archive.add_solved(0, PARTICLES)
    archive.add_score(ENTRY, fresh=True)
    archive.close()
    again = Archive(tmp_path, {"seed": 1})
    found, entry = again.solved(0, CANDIDATE, 4), again.scored(0, CANDIDATE, 6)
    again.close()
    assert found.candidates == (CANDIDATE,)
    assert torch.equal(found.x, PARTICLES.x)
    assert torch.equal(found.x0, PARTICLES.x0)
    assert found.memory.rest == MEMORY.rest
    assert found.memory.rows["last"].dtype == torch.bfloat16
    assert torch.equal(found.memory.rows["last"], MEMORY.rows["last"])
    assert entry == ENTRY
    assert again.solved(1, CANDIDATE, 4) is again.solved(0, CANDIDATE, 5) is None
    assert again.entries == []  # they belong to this run only when its samplers ask for them again


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    archive = Archive()
    archive.add_solved(0, PARTICLES)
    archive.add_score(ENTRY, fresh=True)
    assert archive.entries == [ENTRY]
    assert archive.solved(0, CANDIDATE, 4) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tear", ["half a line", "no newline", "an empty file", "half a heading"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, tear: str) -> None:
    whole = run(SAMPLERS["best_of_n"], folder=tmp_path)
    path = tmp_path / "archive.jsonl"
    data = path.read_bytes()
    torn = {
        "half a line": data[:-20], "no newline": data[:-1], "an empty file": b"", "half a heading": data[:9],
    }[tear]  # fmt: skip
    path.write_bytes(torn)
    resumed = run(SAMPLERS["best_of_n"], folder=tmp_path)
    assert resumed.winners[0].total == whole.winners[0].total
    assert resumed.winners[0].candidate == whole.winners[0].candidate
    records = read_archive(tmp_path)
    assert records[0]["kind"] == "run"
    assert len(records) == 1 + 8 + 8
    if tear in ("half a line", "no newline"):
        assert resumed.ledger.evaluations == 0
        assert resumed.ledger.decodes == 1


def test_a_finished_run_costs_nothing_again(tmp_path: Path) -> None:
    for name, sampler in SAMPLERS.items():
        first = run(sampler, folder=tmp_path / name, budget=Budget(nfe=60))
        text = (tmp_path / name / "archive.jsonl").read_bytes()
        again = run(sampler, folder=tmp_path / name, budget=Budget(nfe=60))
        assert again.ledger.evaluations == again.ledger.decodes == 0
        assert again.ledger.verifier_calls == {}
        assert again.searches[0].spent == first.searches[0].spent
        assert again.winners[0].candidate == first.winners[0].candidate
        assert torch.equal(again.winners[0].x, first.winners[0].x)
        assert (tmp_path / name / "archive.jsonl").read_bytes() == text


def test_latents_that_were_deleted_are_made_again(tmp_path: Path) -> None:
    first = run(SAMPLERS["best_of_n"], folder=tmp_path)
    for path in (tmp_path / "latents").iterdir():
        path.unlink()
    again = run(SAMPLERS["best_of_n"], folder=tmp_path)
    assert again.ledger.evaluations == first.ledger.evaluations
    assert again.ledger.decodes == 0
    assert torch.equal(again.winners[0].x, first.winners[0].x)


def test_another_run_s_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    run(SAMPLERS["best_of_n"], folder=tmp_path, seed=1)
    path = tmp_path / "archive.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "sco')  # it may be running at this moment
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"holds another run \(its seed is 1, not 2\)"):
        run(SAMPLERS["best_of_n"], folder=tmp_path, seed=2)
    assert path.read_bytes() == before


def test_what_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    run(SAMPLERS["best_of_n"], folder=tmp_path)
    path = tmp_path / "archive.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "oops\n", *lines[3:]]))
    with pytest.raises(UsageError, match=r"line 4 of .* is not JSON"):
        run(SAMPLERS["best_of_n"], folder=tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another output folder"):
        Archive(tmp_path / "file" / "below", {})


def test_every_record_is_plain_json_with_its_recipe(tmp_path: Path) -> None:
    run(SAMPLERS["zero_order"], folder=tmp_path, prompts=2)
    for line in (tmp_path / "archive.jsonl").read_text().splitlines()[1:]:
        record = json.loads(line)
        assert {"kind", "prompt", "candidate", "origin", "parent", "key", "start", "details", "step"} <= set(
            record
        )
        if record["kind"] == "solve":
            assert (tmp_path / record["file"]).exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_time_between_lives_does_not_count(tmp_path: Path) -> None:
    archive = Archive(tmp_path, {})
    archive.add_score(Entry(0, CANDIDATE, 6, True, {}, 0.0, seconds=100.0), fresh=True)
    archive.close()
    again = Archive(tmp_path, {})
    assert again.earlier_seconds == 100
    assert 100 <= again.seconds < 101
    again.close()


def test_particles_join_only_what_fits() -> None:
    def at(step: int, memory: Memory | None, x0: bool = False) -> Particles:
        x = torch.rand(1, 3)
        return Particles(x, step, (CANDIDATE,), memory, x if x0 else None)

    joined = cat([PARTICLES, PARTICLES])
    assert len(joined) == 2
    assert torch.equal(joined[[1]].memory.rows["last"], MEMORY.rows["last"])
    assert torch.equal(joined[1:].x, PARTICLES.x)
    assert cat([at(1, None, True), at(1, None)]).x0 is None
    for other in (at(2, None), at(1, MEMORY)):
        with pytest.raises(ValueError, match="cannot be joined"):
            cat([at(1, None), other])
    with pytest.raises(ValueError, match="cannot be joined"):
        cat([at(1, MEMORY), at(1, None)])
