"""`genscale calibrate-verifier`: from prompts, runs and labels to a folder that searches use; and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genscale
from genscale.cli.app import main
from genscale.commands.labelled_runs import labelled, read_labels, read_scored
from genscale.numerics.probability_curve import calibration_error, reliability
from genscale.pipelines.loading import folder_of
from genscale.results.verifier_calibration_file import read

PROMPTS = (
    "a red star",
    "two blue rings",
    "three green circles",
    "a purple square and a red ring",
    "a blue star",
)
SMALL = ("--steps", "4", "--candidates", "4", "--seed", "1")
embedded = pytest.mark.skipif(not folder_of("shapes-flow").is_dir(), reason="the toy model is not there")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration of shapes_clip by the exact judge."""
    from genscale.cli.app import main

    out = tmp_path_factory.mktemp("made") / "judge"
    words = ["calibrate-verifier", *PROMPTS, "--judge", "shapes", *SMALL, "--out", str(out), "--json"]
    assert main(words) == 0
    return out


@embedded
@pytest.mark.slow
def test_the_folder_holds_what_the_archive_says(made: Path) -> None:
    found, _ = read(made)
    scored = read_scored(made / "candidates", ["shapes_clip"])
    right = {(0, f.prompt, f.candidate.id): f.select["shapes"] for f in scored.finals}
    given = labelled([scored], right, ["shapes_clip"])
    assert given.progress == found.table.progress == (0.25, 0.5, 0.75)
    assert given.finals[:, 0].tolist() == [f.scores["shapes_clip"] for f in scored.finals]
    assert found.table.right.tolist() == [f.select["shapes"] for f in scored.finals]
    assert found.texts == PROMPTS
    assert found.table.prompts.tolist() == [i for i in range(5) for _ in range(4)]
    assert (found.table.steps, len(found.table.finals)) == (4, 20)
    assert found.members[0].spread == pytest.approx(np.std(given.finals))
    with Image.open(made / "reliability.png") as picture:
        assert picture.size[0] > 800


@embedded
@pytest.mark.slow
def test_results_of_python_give_the_same_as_the_command(made: Path, tmp_path: Path) -> None:
    pipe = genscale.load_pipeline("shapes-flow")
    scaled = genscale.scale(
        pipe, "best_of_n", "shapes_clip", select="shapes", candidates=4, previews=(0, 0.25, 0.5, 0.75)
    )
    seeds = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
    result = scaled.search(list(PROMPTS), num_inference_steps=4, guidance_scale=3.0, generator=seeds)
    answers = genscale.calibrate_verifier(result, judge="shapes", out=tmp_path / "python", pipe=pipe)
    saved = result.save(tmp_path / "run")
    words = ["calibrate-verifier", "--runs", str(saved), "--verifier", "shapes_clip", "--judge", "shapes"]
    assert main([*words, "--out", str(tmp_path / "words")]) == 0
    told, asked = (read(tmp_path / name)[0] for name in ("python", "words"))
    assert told.text() == asked.text()
    assert answers.answers_probability
    with pytest.raises(genscale.UsageError, match="holds a calibration already"):
        genscale.calibrate_verifier(result, judge="shapes", out=tmp_path / "python")
    with pytest.raises(genscale.UsageError, match="give one of the two"):
        genscale.calibrate_verifier(result, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@embedded
@pytest.mark.slow
def test_runs_and_labels_of_the_user_give_the_same(made: Path, genscale: Any, tmp_path: Path) -> None:
    """The judge's labels as a file, by prompt number and candidate."""
    found, _ = read(made)
    scored = read_scored(made / "candidates", ["shapes_clip"])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "candidate", "label"])
        for f in scored.finals:
            rows.writerow([f.prompt, f.candidate.id, "yes" if f.select["shapes"] else "no"])
    words = ("calibrate-verifier", "--runs", made / "candidates", "--labels", tmp_path / "labels.csv")
    code, out, err = genscale(*words, "--out", tmp_path / "again", "--json")
    assert code == 0, err
    told, (again, _) = json.loads(out), read(tmp_path / "again")
    assert again.levels == found.levels
    assert again.table.finals.tolist() == found.table.finals.tolist()
    assert told["labels"] == "file"
    assert [level["progress"] for level in told["levels"]] == [0.25, 0.5, 0.75, 1.0]
    p, right = found.table.finals.numpy(), found.table.right.numpy()
    assert told["levels"][-1]["ece"] == pytest.approx(calibration_error(reliability(p, right)))


@embedded
@pytest.mark.slow
def test_a_judge_that_the_run_did_not_have_scores_what_it_kept(
    made: Path, genscale: Any, tmp_path: Path
) -> None:
    """The exact judge is asked about the decoded candidates: the same labels as of the same candidates in a search."""
    words = (
        "generate",
        *PROMPTS,
        *SMALL,
        "--previews",
        "0.5",
        "--held-out",
        "none",
        "--out",
        tmp_path / "run",
    )
    assert genscale(*words)[0] == 0
    words = (
        "calibrate-verifier",
        "--runs",
        tmp_path / "run",
        "--judge",
        "shapes",
        "--out",
        tmp_path / "again",
    )
    code, _, err = genscale(*words, "--json")
    assert code == 0, err
    again, whole = read(tmp_path / "again")[0].table, read(made)[0].table
    assert again.right.tolist() == whole.right.tolist()
    assert again.progress == (0.75,)  # two of four calls, and the preview's own


@embedded
@pytest.mark.slow
def test_labels_by_picture(made: Path, tmp_path: Path) -> None:
    scored = read_scored(made / "candidates", ["shapes_clip"])
    pictures = [(i, p["pictures"][f"{i:03d}-best.png"]) for i, p in enumerate(scored.run.record["prompts"])]  # type: ignore[index]
    file = tmp_path / "labels.csv"
    for folder in (f"{made}/candidates/", ""):
        file.write_text("image,label\n" + "".join(f"{folder}{i:03d}-best.png,{i % 2}\n" for i, _ in pictures))
        assert read_labels(file, [scored]) == {(0, i, c): float(i % 2) for i, c in pictures}


@embedded
@pytest.mark.slow
def test_a_search_uses_it_and_resumes_from_another_folder(
    made: Path, genscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "judge")
    monkeypatch.chdir(tmp_path)
    words = (
        "generate",
        "a red star",
        "--verifier",
        "calibrated:judge",
        "--budget",
        "128nfe,p=0.6",
        *SMALL[:2],
    )
    code, out, err = genscale(*words, "--seed", "3", "--wave", "1", "--out", "run", "--json")
    assert code == 0, err
    record = json.loads(out)["prompts"][0]
    assert record["stopped_by"]["rule"] == "p=0.6"
    assert record["best"]["search"]["calibrated(judge)"] >= 0.6
    monkeypatch.chdir(made.parent)
    code, out, err = genscale("resume", tmp_path / "run", "--json")
    assert code == 0, err
    assert json.loads(out)["prompts"][0]["best"] == record["best"]
    assert json.loads(out)["ledger"]["evaluations"] == 0
    code, out, _ = genscale(
        "score", tmp_path / "run" / "best.png", "--verifier", f"calibrated:{made}", "--json"
    )
    [score] = json.loads(out)[0]["scores"].values()
    assert score == pytest.approx(record["best"]["search"]["calibrated(judge)"], abs=0.02)  # 8-bit pixels
    # Another calibration in its place is another run.
    data = json.loads((tmp_path / "judge" / "calibration.json").read_text())
    data["levels"][-1]["bias"] += 0.5
    (tmp_path / "judge" / "calibration.json").write_text(json.dumps(data))
    code, _, err = genscale("resume", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)


@embedded
@pytest.mark.slow
def test_a_killed_one_goes_on_when_it_is_called_again(
    made: Path, genscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genscale.engine.scoring import Scoring

    score, calls = Scoring._score, []

    def killed(*args: Any) -> bool:
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return score(*args)

    words = (
        "calibrate-verifier",
        *PROMPTS,
        "--judge",
        "shapes",
        *SMALL,
        "--batch-size",
        "4",
        "--out",
        tmp_path / "run",
    )
    with monkeypatch.context() as patch:
        patch.setattr(Scoring, "_score", killed)
        code, _, err = genscale(*words)
    assert code == 130, err
    assert not (tmp_path / "run" / "calibration.json").exists()
    assert (tmp_path / "run" / "candidates" / "archive.jsonl").exists()
    code, _, err = genscale(*words, "--json")
    assert code == 0, err
    again, whole = read(tmp_path / "run")[0].table, read(made)[0].table
    assert again.right.tolist() == whole.right.tolist()
    assert again.finals.tolist() == pytest.approx(
        whole.finals.tolist(), abs=1e-4
    )  # other batches, other last bits


# ---------------------------------------------------------------- refusals

BAD = {
    "few prompts": ([*PROMPTS[:3], "--judge", "shapes"], "at least 4 prompts, some to be held out, not 3"),
    "the same prompt": (["a red star"] * 5 + ["--judge", "shapes"], "at least 4 prompts"),
    "no labels": ([*PROMPTS], "give one of the two"),
    "both": ([*PROMPTS, "--judge", "shapes", "--labels", "labels.csv"], "give one of the two"),
    "labels of nothing": ([*PROMPTS, "--labels", "labels.csv"], "have no labels: make them with `genscale generate`"),
    "itself": ([*PROMPTS, "--verifier", "shapes", "--judge", "shapes"], "'shapes' cannot judge itself"),
    "twice": ([*PROMPTS, "--verifier", "clip", "--verifier", "clip", "--judge", "shapes"], "is named twice"),
    "weight": ([*PROMPTS, "--verifier", "clip:2", "--judge", "shapes"], "'clip:2' has a weight"),
    "module": ([*PROMPTS, "--verifier", "os.path:exists", "--judge", "shapes"], "has code of a module"),
    "calibrated": ([*PROMPTS, "--verifier", "calibrated:x", "--judge", "shapes"], "calibrated already"),
    "unknown judge": ([*PROMPTS, "--judge", "shappes"], "did you mean 'shapes'"),
    "unknown verifier": ([*PROMPTS, "--verifier", "clipp", "--judge", "shapes"], "did you mean 'clip'"),
    "caption": (["a cat", *PROMPTS, "--judge", "shapes"], "is no caption of the shapes world"),
    "previews": ([*PROMPTS, "--judge", "shapes", "--previews", "0.5,x"], "--previews '0.5,x' cannot be read"),
    "late previews": ([*PROMPTS, "--judge", "shapes", "--previews", "0.5,1.5"], "increasing fractions"),
    "candidates": ([*PROMPTS, "--judge", "shapes", "--candidates", "0"], "at least 1"),
    "no run": (["--runs", "nowhere", "--judge", "shapes"], "'nowhere' is not a folder"),
    "no prompt": (["--judge", "shapes"], "there is no prompt"),
    "runs and prompts": ([*PROMPTS, "--runs", "nowhere", "--judge", "shapes"], "give prompts or --runs, not both"),
    "right": (["--labels", "l.csv", "--runs", "x", "--right-at", "1"], "leave it out with --labels"),
}  # fmt: skip


@embedded
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    case: str, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, sentence = BAD[case]
    assert sentence in refused("calibrate-verifier", *words, "--out", "some/run")
    assert list(tmp_path.iterdir()) == []


LABELS = {
    "nothing": ("prompt,candidate,label\n", "holds no label"),
    "columns": ("picture,label\na.png,1\n", "line 2: it names neither an image nor a prompt"),
    "label": ("prompt,candidate,label\n0,0,maybe\n", "line 2: label 'maybe' is neither right nor wrong"),
    "prompt": ("prompt,candidate,label\n9,0,1\n", "line 2: there is no finished candidate '0' of '9'"),
    "candidate": ("prompt,candidate,label\n0,99,1\n", "no finished candidate '99'"),
    "contradiction": ("prompt,candidate,label\n0,0,1\na red star,0,0\n", "this candidate was labelled otherwise"),
    "run": ("run,prompt,candidate,label\nelsewhere,0,0,1\n", "does not say in which of the runs"),
    "image": ("image,label\nother.png,1\n", "'other.png' is no picture of a candidate"),
    "right": ("prompt,candidate,label\n0,0,1\n1,0,1\n2,0,1\n3,0,1\n", "none of the 4 labelled candidates is wrong"),
    "wrong": ("prompt,candidate,label\n0,0,0\n1,0,0\n2,0,0\n3,0,0\n", "none of the 4 labelled candidates is right"),
    "few": ("prompt,candidate,label\n0,0,0\n0,1,1\n", "some to be held out, not 1"),
}  # fmt: skip


@embedded
@pytest.mark.slow
@pytest.mark.parametrize("case", LABELS)
def test_bad_labels_are_one_sentence(case: str, made: Path, genscale: Any, tmp_path: Path) -> None:
    text, sentence = LABELS[case]
    (tmp_path / "labels.csv").write_text(text)
    words = ("calibrate-verifier", "--runs", made / "candidates", "--labels", tmp_path / "labels.csv")
    code, out, err = genscale(*words, "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not (tmp_path / "out").exists()


@embedded
@pytest.mark.slow
def test_runs_that_do_not_serve_are_refused(made: Path, genscale: Any, tmp_path: Path) -> None:
    words = (
        "calibrate-verifier",
        "--judge",
        "shapes",
        "--out",
        tmp_path / "out",
        "--runs",
        made / "candidates",
    )
    code, _, err = genscale(*words, "--verifier", "clip")
    assert (code, "was not searched with 'clip', but with shapes_clip" in err) == (2, True)
    code, _, err = genscale("calibrate-verifier", *PROMPTS, "--judge", "shapes", "--out", made)
    assert (code, "holds a calibration already" in err) == (2, True)
    code, _, err = genscale(
        "generate",
        "a red star",
        "--sampler",
        "evolution",
        "--budget",
        "64nfe",
        "--steps",
        "4",
        "--out",
        tmp_path / "run",
    )
    assert code == 0, err
    code, _, err = genscale(*words[:5], "--runs", tmp_path / "run")
    assert (code, "no independent draws of the model" in err) == (2, True)
