"""`genscale show` and `genscale rescore`, in process, on the bundled toy model with tiny settings; and the preview."""

import json
import shutil

import pytest
import torch
from PIL import Image

from genscale.cli.app import main
from genscale.engine.archive import Entry
from genscale.engine.events import Denoised, Scored
from genscale.media import Media
from genscale.numerics.intervals import Mean
from genscale.protocol.particles import Candidate
from genscale.report import score_curves
from genscale.report.score_curves import Curve, CurvePanel
from genscale.runs.live_preview import Preview
from genscale.runs.run_folder import RunFolder
from genscale.runs.saved_run import read_run

PROMPTS = ("a red star", "a blue ring")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "run"
    words = ("--candidates", "5", "--steps", "3", "--seed", "3", "--out", str(out), "--json")
    assert main(["generate", *PROMPTS, *words]) == 0
    return out


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def record(folder):
    return json.loads((folder / "run.json").read_text())


# --------------------------------------------------------------------------------------------------- show


def test_show_writes_pictures_and_tells_what_the_run_found(run, genscale):
    code, out, err = genscale("show", run, "--json")
    assert code == 0, err
    found, told = json.loads(out), record(run)
    assert found["finished"] is True
    assert found["files"] == ["contact.png", "curve.png", "000-tree.png", "001-tree.png"]
    for name in found["files"]:
        with Image.open(run / name) as image:
            assert min(image.size) > 200
    for shown, wanted in zip(found["prompts"], told["prompts"], strict=True):
        assert (shown["prompt"], shown["candidates"], shown["nfe"]) == (wanted["prompt"], 5, 30)
        assert shown["best"]["total"] == pytest.approx(wanted["best"]["total"])
        assert shown["base"]["search"] == wanted["base"]["search"]
        assert [p["candidate"] for p in shown["curve"]] == [p["candidate"] for p in wanted["curve"]]
        # independent draws have cost their share each, though a wave is scored as one
        assert [p["nfe"] for p in shown["curve"]] == [6 * (p["candidate"] + 1) for p in wanted["curve"]]


def test_show_of_a_run_that_was_killed(run, genscale):
    """As a kill leaves it: no record, no images, a torn line, some candidates without a score."""
    for path in run.glob("*.png"):
        path.unlink()
    (run / "run.json").unlink()
    lines = (run / "archive.jsonl").read_text().splitlines(keepends=True)
    scores = [n for n, line in enumerate(lines) if '"kind": "score"' in line]
    gone = set(scores[3:5])  # two candidates of the first prompt
    (run / "archive.jsonl").write_text(
        "".join(line for n, line in enumerate(lines) if n not in gone) + '{"ki'
    )
    code, out, err = genscale("show", run)
    assert code == 0, err
    assert "not finished: genscale resume" in out
    found = json.loads(genscale("show", run, "--json")[1])
    assert [p["candidates"] for p in found["prompts"]] == [3, 5]
    assert (run / "contact.png").is_file()
    assert genscale("resume", run)[0] == 0
    assert record(run)["prompts"][0]["finished"] == 5


def test_totals_of_a_folder_are_those_of_the_search(genscale, tmp_path):
    out = tmp_path / "ranks"
    words = ("--verifier", "shapes_clip", "--verifier", "compressibility:2", "--ensemble", "rank")
    options = ("--candidates", "4", "--steps", "2", "--seed", "1", "--out", out)
    assert genscale("generate", "a red star", *words, *options)[0] == 0
    best = read_run(out).ranking(0)[0]
    told = record(out)["best"]
    assert (best.candidate.id, best.total) == (told["candidate"], pytest.approx(told["total"]))


@pytest.mark.parametrize("command", [("show",), ("rescore", "--verifier", "shapes")])
def test_a_folder_without_a_candidate_is_refused_in_one_sentence(command, genscale, tmp_path):
    name, *options = command
    empty = tmp_path / "empty"
    empty.mkdir()
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "request.json").write_text(
        '{"prompts": ["a red star"], "model": "shapes-flow", "sampler": "smc"}'
    )
    for folder, sentence in (
        (empty, "holds no run"),
        (tmp_path / "gone", "is not a folder"),
        (begun, "has no finished candidate yet"),
    ):
        code, out, err = genscale(name, folder, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert sentence in err


# ------------------------------------------------------------------------------------------------- rescore


def test_rescoring_by_the_same_verifier_changes_nothing(run, genscale):
    """The latents are those of the search: the same scores, ranks that agree wholly, the same winners."""
    code, out, err = genscale("rescore", run, "--verifier", "shapes_clip", "--json")
    assert code == 0, err
    found = json.loads(out)
    [told] = found["verifiers"]
    assert told["rank_correlation"]["rho"] == pytest.approx(1)
    assert told["same_winner"] == 2
    for prompt in told["prompts"]:
        assert len(prompt["candidates"]) == 5
        for candidate in prompt["candidates"]:
            assert candidate["score"] == pytest.approx(candidate["searched"], abs=1e-5)
    assert found["files"] == ["rescore-shapes_clip.json", "rescore-shapes_clip.png"]
    assert json.loads((run / "rescore-shapes_clip.json").read_text())["candidates"] == 10


def test_rescoring_by_another_says_who_would_have_won(run, genscale, monkeypatch):
    from genscale.pipelines.scale import Scaled

    monkeypatch.setattr(Scaled, "__call__", lambda *a, **k: pytest.fail("it generated"))
    words = ("--verifier", "compressibility", "--verifier", "compressibility(direction=incompressible)")
    found = json.loads(genscale("rescore", run, *words, "--json")[1])
    flat, detailed = found["verifiers"]
    assert flat["rank_correlation"]["rho"] == pytest.approx(-detailed["rank_correlation"]["rho"])
    for a, b in zip(flat["prompts"], detailed["prompts"], strict=True):
        scores = {c["candidate"]: c["score"] for c in a["candidates"]}
        assert a["would_win"]["candidate"] == max(scores, key=scores.get)
        assert b["would_win"]["candidate"] == min(scores, key=scores.get)
        assert a["winner"]["candidate"] == b["winner"]["candidate"]
        assert a["winner"]["rank"] + b["winner"]["rank"] == 6
    code, out, _ = genscale("rescore", run, *words)
    assert code == 0
    assert "the same winner in" in out


def test_candidates_without_latents_are_counted(run, genscale):
    for path in run.glob("latents/0-3-*"):
        path.unlink()
    found = json.loads(genscale("rescore", run, "--verifier", "shapes", "--json")[1])
    assert (found["candidates"], found["without_latents"]) == (9, 1)
    shutil.rmtree(run / "latents")
    code, _, err = genscale("rescore", run, "--verifier", "shapes")
    assert (code, "no latents are left" in err) == (2, True)


# -------------------------------------------------------------------------------------- score_curves, intervals


def test_a_curve_holds_its_value_until_the_next_best_and_begins_where_all_have_one():
    curve = Curve("a", [[(10, 1.0), (30, 3.0)], [(20, 5.0)]])
    assert [(x, m.mean) for x, m in curve.means()] == [(20, 3.0), (30, 4.0)]


def test_an_interval_of_few_values_is_students():
    mean = Mean.of([1.0, 2.0, 3.0])
    assert (mean.mean, mean.n) == (2.0, 3)
    assert mean.high - 2 == pytest.approx(4.302653 * 1.0 / 3**0.5, rel=1e-6)
    assert 2 - mean.low == pytest.approx(mean.high - 2)
    assert Mean.of([4.0]).low is Mean.of([4.0]).high is None
    assert Mean.of([]).text() == ""
    assert Mean.of([0.01, 0.02]).text(signed=True) == "+0.015 ± 0.064"


def test_seven_curves_have_seven_colours_and_markers(tmp_path):
    assert len(set(score_curves.COLOURS)) == len(set(score_curves.MARKERS)) == 7
    many = [Curve(f"entry {i}", [[(10, i), (20, i + 1.0)], [(10, i), (20, i + 2.0)]]) for i in range(9)]
    score_curves.draw([CurvePanel("score", many, ("base", 0.5))], "title", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 700


def test_best_so_far_rises(made):
    run = read_run(made)
    for i, finals in enumerate(run.finals):
        totals = [c.total for c in run.summary(i).best_so_far()]
        assert totals == sorted(totals)
        assert totals[-1] == max(f.total for f in finals)


# ------------------------------------------------------------------------------------------------- preview


def scored(i, total, colour, prompt=0, best=None):
    entry = Entry(prompt, Candidate(i, "prior"), 2, True, {}, total)
    return Scored(entry, best or entry, Media(torch.full((1, 3, 8, 8), colour)))


def shade(folder):
    with Image.open(folder / "preview.png") as image:
        return image.getpixel((4, 4))[0]


def test_the_preview_is_the_best_not_more_often_than_allowed(tmp_path):
    now = [100.0]
    preview = Preview(RunFolder(tmp_path), every=3.0, clock=lambda: now[0])
    first = scored(0, 1.0, 0.2)
    preview(first)
    assert shade(tmp_path) == 51
    preview(scored(1, 2.0, 0.4))
    assert shade(tmp_path) == 51  # too soon
    now[0] += 3
    preview(Denoised(4, 1))  # any event will do, once it is due
    assert shade(tmp_path) == 102
    written = (tmp_path / "preview.png").stat().st_mtime_ns
    now[0] += 9
    preview(scored(2, 0.5, 0.8, best=first.entry))  # no new best
    assert (tmp_path / "preview.png").stat().st_mtime_ns == written
    preview.close()
    assert list(tmp_path.iterdir()) == []


def test_several_prompts_share_a_preview(tmp_path):
    preview = Preview(RunFolder(tmp_path), every=0.0)
    for i in range(3):
        preview(scored(0, 1.0, 0.2, prompt=i))
    with Image.open(tmp_path / "preview.png") as image:
        assert image.size == (2 * (8 + 8) + 8,) * 2


def test_a_preview_that_cannot_be_written_ends_nothing(tmp_path):
    preview = Preview(RunFolder(tmp_path / "gone"), every=0.0)
    preview(scored(0, 1.0, 0.2))
    preview(scored(1, 2.0, 0.4))
    preview.close()


def test_while_a_search_runs_there_is_a_preview_and_after_it_none(genscale, tmp_path, monkeypatch):
    seen = []
    written = Preview._write

    def watched(self):
        written(self)
        with Image.open(self.folder.path / "preview.png") as image:
            seen.append(image.size)

    monkeypatch.setattr(Preview, "_write", watched)
    out = tmp_path / "run"
    words = ("--candidates", 6, "--wave", 2, "--steps", 2, "--seed", 5)
    assert genscale("generate", "a red star", *words, "--out", out)[0] == 0
    assert seen
    assert set(seen) == {(64, 64)}
    assert not (out / "preview.png").exists()
    monkeypatch.setattr(Preview, "__call__", lambda self, event: None)
    assert genscale("generate", "a red star", *words, "--out", tmp_path / "without")[0] == 0
    assert record(out)["best"] | {"seconds": 0} == record(tmp_path / "without")["best"] | {"seconds": 0}
