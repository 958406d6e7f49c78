"""Folders and files of early versions, which called `held_out` `report`, are read as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genscale.commands import score_files
from genscale.commands.compare_entries import ComparedRun
from genscale.commands.comparison_of_runs import comparison_of_runs
from genscale.engine.archive import read_archive
from genscale.runs.read_request import load_folder
from genscale.runs.run_record import read_record
from genscale.runs.saved_run import read_run
from genscale.storage.former_names import with_present_names

REQUEST = {
    "model": "shapes-flow",
    "sampler": "best_of_n",
    "prompts": ["a red star"],
    "seed": 1,
    "report": ["shapes"],
}
BEST = {
    "candidate": 1,
    "total": 0.5,
    "search": {"shapes_clip": 0.5},
    "select": {},
    "report": {"shapes": 1.0},
    "nfe": 80,
}


def folder_of_before(path: Path) -> Path:
    """A finished run of one prompt with one candidate, as an early version wrote it."""
    verifiers = {"search": [["shapes_clip", 1.0]], "select": [], "report": [["shapes", 1.0]]}
    score: dict[str, Any] = {
        "kind": "score", "prompt": 0, "candidate": 1, "origin": "prior", "parent": None, "key": [1], "start": 0,
        "details": {}, "step": 20, "final": True, "scores": {"shapes_clip": 0.5}, "total": 0.5, "select": {},
        "report": {"shapes": 1.0}, "nfe": 80, "seconds": 1.0,
    }  # fmt: skip
    lines = [{"kind": "run", "prompts": ["a red star"], "verifiers": verifiers}, score]
    prompt = {"prompt": "a red star", "index": 0, "best": BEST, "base": BEST | {"candidate": 0}, "nfe": 80}
    record = {
        "verifiers": {"report": ["shapes"]},
        "best": BEST,
        "base": None,
        "prompts": [prompt],
        "wall_seconds": 2.0,
    }
    (path / "archive.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "request.json").write_text(json.dumps(REQUEST))
    (path / "run.json").write_text(json.dumps(record))
    return path


def test_a_folder_of_an_early_version(tmp_path: Path) -> None:
    folder = folder_of_before(tmp_path)
    heading, score = read_archive(folder)
    assert heading["verifiers"]["held_out"] == [["shapes", 1.0]]
    assert score["held_out"] == {"shapes": 1.0}
    record = read_record(folder)
    assert record is not None
    assert record["verifiers"] == {"held_out": ["shapes"]}
    assert record["best"]["held_out"] == record["prompts"][0]["best"]["held_out"] == {"shapes": 1.0}
    summary = read_run(folder).summary(0)
    assert summary.base is not None
    assert (summary.held_out, summary.base.held_out) == (("shapes",), {"shapes": 1.0})


def test_a_comparison_of_early_runs_keeps_its_held_out_scores(tmp_path: Path) -> None:
    folder = folder_of_before(tmp_path)
    record = read_record(folder)
    assert record is not None
    runs = [ComparedRun(name, name, load_folder(folder)) for name in ("a", "b")]
    found = comparison_of_runs("sampler", runs, [record, record])
    assert [row.held_out["shapes"].mean.mean for row in found.rows] == [1.0, 1.0, 1.0]


def test_files_of_an_early_version_are_scored_by_all_their_verifiers() -> None:
    data = with_present_names({"request": REQUEST | {"verifiers": ["clip:2"]}})
    assert score_files._verifiers([data]) == ["clip", "shapes"]


def test_the_option_pool_size_of_dfs_was_called_pool(tmp_path: Path) -> None:
    told = {"sampler": "dfs", "prompts": ["a dog"], "seed": 1, "sampler_fields": {"pool": 7, "paths": 9}}
    (tmp_path / "request.json").write_text(json.dumps(told))
    request = load_folder(tmp_path)
    assert request.sampler_fields == {"pool_size": 7, "paths": 9}
    assert request.pool is False
    heading = {"kind": "run", "sampler": "Dfs", "options": {"pool": 7}}
    assert with_present_names(heading)["options"] == {"pool_size": 7}
    other = {"sampler": "best_of_n", "sampler_fields": {"pool": 7}, "pool": True}
    assert with_present_names(other)["sampler_fields"] == {"pool": 7}
