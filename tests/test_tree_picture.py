"""`genscale tree`: who came from whom, read back from the folder of a run, and drawn."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genscale.commands import tree_picture
from genscale.commands.draw_tree import draw_trees
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.runs.lineage import Line, Lineage, families
from tests.analytic import SAMPLERS, Run, run

MAGENTA = (255, 0, 255)


def run_in(folder: Path, name: str, prompts: int = 1, nfe: int = 60, **more: Any) -> Run:
    """A run of the bed with the request that the command line leaves in its folder."""
    folder.mkdir(exist_ok=True)
    made = run(SAMPLERS[name], folder=folder, prompts=prompts, budget=Budget(nfe=nfe), **more)
    texts = [f"prompt {i}" for i in range(prompts)]
    (folder / "request.json").write_text(
        json.dumps({"prompts": texts, "model": "some/bed", "sampler": "best_of_n"})
    )
    return made


def record(folder: Path, made: Run, pictures: dict[str, int]) -> None:
    best = made.winners[0].candidate.id
    summary = {"index": 0, "best": {"candidate": best, "total": made.winners[0].total}, "pictures": pictures}
    (folder / "run.json").write_text(json.dumps({"prompts": [summary]}))


def share_of(colour: tuple[int, int, int], path: Path) -> int:
    with Image.open(path) as image:
        return int((np.asarray(image.convert("RGB")) == colour).all(-1).sum())


# ---------------------------------------------------------------- who came from whom


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_candidate_is_found_again(tmp_path: Path, name: str) -> None:
    made = run_in(tmp_path, name, prompts=2)
    found = families(tmp_path)
    assert [f.prompt for f in found] == ["prompt 0", "prompt 1"]
    for family, search in zip(found, made.searches, strict=True):
        lines = {line.id: line for line in family.lines()}
        assert len(lines) == len(family.lines())  # each is there once
        finals = {e.candidate.id: e for e in search.finals}
        assert {i for i, line in lines.items() if line.total is not None} == set(finals)
        for i, entry in finals.items():
            line, candidate = lines[i], entry.candidate
            assert (line.origin, line.parent, line.start) == (
                candidate.origin,
                candidate.parent,
                candidate.step,
            )
            assert line.total == entry.total
            assert line.end == entry.step == search.process.steps == family.steps
        for line in lines.values():
            assert line.start <= line.end
            assert all(c.parent == line.id for c in line.children)
            below = [c.total for c in line.lines() if c.total is not None]
            assert line.below == (pytest.approx(sum(below), abs=1e-9), len(below))
        best = search.best().candidate
        assert family.best[0] == best.id
        assert lines[family.best[-1]].parent is None
        assert [lines[i].parent for i in family.best[:-1]] == list(family.best[1:])


def test_values_are_means_of_what_was_finished_from_there_on() -> None:
    leaf, lost = Line(2, parent=1, start=6, end=8, total=4.0), Line(3, parent=0, start=2, end=5)
    child = Line(1, parent=0, start=4, end=8, total=2.0, children=[leaf], below=(6.0, 2))
    leaf.below = (4.0, 1)
    root = Line(0, end=8, total=0.0, children=[child, lost], below=(6.0, 3))
    assert root.values() == [(0, 2.0), (2, 2.0), (4, 2.0)]
    assert child.values() == [(4, 3.0), (6, 3.0)]
    assert leaf.values() == [(6, 4.0)]
    assert lost.values() == [(2, None)]
    assert [line.id for line in root.lines()] == [0, 1, 2, 3]  # what leaves last is nearest


def test_a_deep_line_of_parents_is_no_trouble(tmp_path: Path) -> None:
    lines = [Line(i, parent=i - 1 if i else None, end=6, total=float(i)) for i in range(3000)]
    for above, line in pairwise(lines):
        above.children = [line]
    family = Lineage(0, "x", (lines[0],), 6, tuple(range(2999, -1, -1)))
    assert len(family.lines()) == 3000
    tree_picture.draw(family, "deep", tmp_path / "tree.png")
    with Image.open(tmp_path / "tree.png") as image:
        assert image.height <= tree_picture.TALLEST * 150


def test_a_run_that_was_killed_is_drawn_as_far_as_it_went(tmp_path: Path) -> None:
    run_in(tmp_path, "dts_star")
    archive = tmp_path / "archive.jsonl"
    lines = archive.read_text().splitlines(keepends=True)
    archive.write_text("".join(lines[:9]) + lines[9][:20])  # torn; nothing was finished yet
    family = families(tmp_path)[0]
    assert family.best == ()
    assert {line.total for line in family.lines()} == {None}
    assert draw_trees(tmp_path) == ["tree.png"]


def test_of_two_plans_the_later_is_in_force(tmp_path: Path) -> None:
    """A run that went on with another budget may have made other candidates of the same numbers."""
    run_in(tmp_path, "smc of all that the budget pays for", nfe=40)
    made = run_in(tmp_path, "smc of all that the budget pays for", nfe=90)
    lines = {line.id: line for line in families(tmp_path)[0].lines()}
    for entry in made.searches[0].finals:
        line = lines[entry.candidate.id]
        assert (line.parent, line.start, line.total) == (
            entry.candidate.parent,
            entry.candidate.step,
            entry.total,
        )


def test_what_was_given_up_keeps_its_last_preview(tmp_path: Path) -> None:
    made = run_in(tmp_path, "best_of_n pruned")
    told: dict[int, float] = {}
    for entry in made.archive.entries:
        if not entry.final:
            told[entry.candidate.id] = entry.total
    lines = families(tmp_path)[0].lines()
    assert {line.id: line.preview for line in lines} == told
    assert sum(line.total is None for line in lines) == 6


# ---------------------------------------------------------------- the image


@pytest.mark.parametrize(
    "name", ["dts_star", "zero_order", "smc", "dfs below a number", "best_of_n pruned", "search_over_paths"]
)
def test_a_picture_of_every_kind(tmp_path: Path, name: str) -> None:
    made = run_in(tmp_path, name)
    best = made.winners[0].candidate.id
    Image.new("RGB", (40, 30), MAGENTA).save(tmp_path / "best.png")
    record(tmp_path, made, {"best.png": best, "gone.png": 1})
    assert draw_trees(tmp_path) == ["tree.png"]
    shown = share_of(MAGENTA, tmp_path / "tree.png")
    assert shown > 1000  # the thumbnail
    (tmp_path / "best.png").unlink()
    draw_trees(tmp_path)
    assert share_of(MAGENTA, tmp_path / "tree.png") == 0  # a plain marker
    green = tuple(int(tree_picture.GREEN[i : i + 2], 16) for i in (1, 3, 5))
    assert share_of(green, tmp_path / "tree.png") > 300  # the best path


def test_no_letter_of_a_prompt_is_a_command(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    run_in(tmp_path, "best_of_n")
    path = tmp_path / "request.json"
    request = json.loads(path.read_text())
    path.write_text(json.dumps({**request, "prompts": [r"$5 \frac{ and $x_ 红色的星 " + "long " * 60]}))
    assert draw_trees(tmp_path) == ["tree.png"]
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_several_prompts_have_a_picture_each(tmp_path: Path) -> None:
    run_in(tmp_path, "best_of_n", prompts=2)
    assert draw_trees(tmp_path) == ["000-tree.png", "001-tree.png"]
    assert {p.name for p in tmp_path.glob("*.png")} == {"000-tree.png", "001-tree.png"}


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        draw_trees(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no run"):
        draw_trees(tmp_path)
    run_in(tmp_path, "best_of_n")
    archive = tmp_path / "archive.jsonl"
    text = archive.read_text()
    archive.write_text(text.splitlines(keepends=True)[0])
    with pytest.raises(UsageError, match="no candidate yet"):
        draw_trees(tmp_path)
    archive.unlink()
    with pytest.raises(UsageError, match="no candidate yet"):
        draw_trees(tmp_path)
    archive.write_text(text.splitlines(keepends=True)[0] + '{"kind": "score"}\n')
    with pytest.raises(UsageError, match="was damaged"):
        draw_trees(tmp_path)
    archive.write_text("{\n")
    with pytest.raises(UsageError, match="is not JSON"):
        draw_trees(tmp_path)
    archive.write_text(text)
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(UsageError, match=r"run\.json' cannot be read"):
        draw_trees(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UsageError, match="cannot be read"):
        draw_trees(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "tree.png").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        draw_trees(tmp_path)
