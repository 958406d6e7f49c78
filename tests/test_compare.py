"""`genscale compare` and `genscale plan`: equal cost, one loading, resumable; the numbers of the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from genscale.cli.app import app
from genscale.commands.compare_entries import ComparedRun, entries
from genscale.commands.comparison_of_runs import comparison_of_runs
from genscale.errors import UsageError
from genscale.report import image_grid
from genscale.report.lettering import Lettering
from genscale.results.comparison import ScoreSummary
from genscale.runs import finished_run, prepared_run
from genscale.runs.live_preview import Preview
from genscale.runs.request import Request

COMMANDS = typer.main.get_command(app).commands.items()
PROMPTS = ("a red star", "a blue ring")
FEW = ("--steps", "2", "--seed", "3")
NFE = 4  # of one candidate


@pytest.fixture
def loads(monkeypatch):
    """How often a pipeline was loaded."""
    counted, load = [], prepared_run.load_model

    def counting(request, images):
        counted.append(request.model)
        return load(request, images)

    monkeypatch.setattr(prepared_run, "load_model", counting)
    return counted


def test_samplers_at_equal_cost(genscale, loads, tmp_path):
    out = tmp_path / "versus"
    words = ("--sampler", "best_of_n", "--sampler", "zero_order(neighbours=2)", "--sampler", "smc")
    code, printed, err = genscale(
        "compare", *PROMPTS, *words, "--budget", "16nfe", *FEW, "--out", out, "--json"
    )
    assert code == 0, err
    assert loads == ["shapes-flow"]
    found = json.loads(printed)
    assert [row["name"] for row in found["rows"]] == ["base", "best_of_n", "zero_order(neighbours=2)", "smc"]
    assert [row["nfe"] for row in found["rows"]][:2] == [4, 16]
    assert all(row["nfe"] <= 16 for row in found["rows"])
    folders = ("best_of_n", "zero_order-neighbours-2", "smc")
    assert {p.name for p in out.iterdir()} == {
        *folders, "compare.json", "comparison.json", "grid.png", "curves.png",
    }  # fmt: skip
    for row, name in zip(found["rows"][1:], folders, strict=True):
        run = json.loads((out / name / "run.json").read_text())
        assert run["seed"] == 3
        assert run["budget"] == "16nfe"
        assert row["searched"]["each"] == [p["best"]["total"] for p in run["prompts"]]
        assert row["held_out"]["shapes"]["each"] == [p["best"]["held_out"]["shapes"] for p in run["prompts"]]
    first, last = found["rows"][1]["searched"], found["rows"][3]["searched"]
    gains = [b - a for a, b in zip(first["each"], last["each"], strict=True)]
    assert last["gain"]["mean"] == pytest.approx(sum(gains) / 2)
    assert first["gain"] is None
    assert json.loads((out / "comparison.json").read_text()) == found


def test_killed_it_goes_on_where_it_was(genscale, loads, tmp_path, monkeypatch):
    """The second entry is interrupted; the same command then runs it and what is left, and nothing again."""
    out, run, begun = tmp_path / "versus", finished_run.generation.generate, []

    def generate(prepared, *others):
        begun.append(prepared.request.sampler)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return run(prepared, *others)

    monkeypatch.setattr(finished_run.generation, "generate", generate)
    words = ("compare", "a red star", "--sampler", "best_of_n", "--sampler", "smc", "--budget", "8nfe")
    options = ("--steps", "2", "--out", out)  # no seed: drawn once
    code, _, err = genscale(*words, *options)
    assert code == 130
    assert f"genscale resume {out}" in err
    assert json.loads((out / "compare.json").read_text())["axis"] == "sampler"
    code, printed, err = genscale(*words, *options, "--json")
    assert code == 0, err
    assert begun == ["best_of_n", "smc", "smc"]
    seed = json.loads((out / "best_of_n/run.json").read_text())["seed"]
    assert json.loads((out / "smc/run.json").read_text())["seed"] == seed == json.loads(printed)["seed"]
    loads.clear()
    code, again, _ = genscale("resume", out, "--json")
    assert code == 0
    assert loads == []
    assert json.loads(again) == json.loads(printed)


def test_interrupted_within_a_search_it_ends_as_one_that_was_not(genscale, tmp_path, monkeypatch):
    words = (
        "compare",
        "a red star",
        "--sampler",
        "snes(population=2)",
        "--sampler",
        "zero_order(neighbours=2)",
    )
    options = ("--budget", "28nfe", *FEW, "--batch-size", "2", "--json", "--out")
    whole = json.loads(genscale(*words, *options, tmp_path / "whole")[1])
    listen, seen = Preview.__call__, []

    def interrupting(self, event):
        listen(self, event)
        seen.append(event)
        if len(seen) == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(Preview, "__call__", interrupting)
    assert genscale(*words, *options, tmp_path / "torn")[0] == 130
    assert not (tmp_path / "torn/comparison.json").exists()
    assert not list((tmp_path / "torn").glob("*/preview.png"))
    code, again, err = genscale("resume", tmp_path / "torn", "--json")
    assert code == 0, err
    for row, wanted in zip(json.loads(again)["rows"], whole["rows"], strict=True):
        assert row["nfe"] == wanted["nfe"]
        assert row["searched"]["each"] == pytest.approx(wanted["searched"]["each"], abs=1e-5)


def test_another_comparison_in_the_folder_is_refused(genscale, tmp_path):
    out = tmp_path / "versus"
    words = ("--sampler", "best_of_n", "--sampler", "snes", "--budget", "8nfe", *FEW, "--out", out)
    assert genscale("compare", "a red star", *words)[0] == 0
    code, _, err = genscale("compare", "a blue ring", *words)
    assert code == 2
    assert "holds another run (its prompts differs)" in err
    budgets = ("--budgets", "8nfe", "--budgets", "12nfe", *FEW, "--out", out)
    code, _, err = genscale("compare", "a red star", *budgets)
    assert (code, "compares by sampler, not by budget" in err) == (2, True)
    code, _, err = genscale("compare", "a red star", *budgets[:-1], out / "snes")
    assert (code, "holds a run, no comparison" in err) == (2, True)


def test_budgets(genscale, tmp_path):
    out = tmp_path / "budgets"
    words = ("--budgets", "4nfe", "--budgets", "12nfe", "--sampler", "best_of_n")
    code, printed, err = genscale("compare", *PROMPTS, *words, *FEW, "--out", out)
    assert code == 0, err
    found = json.loads((out / "comparison.json").read_text())
    assert [row["nfe"] for row in found["rows"]] == [4, 4, 12]
    base, one, _ = found["rows"]
    assert base["searched"]["each"] == one["searched"]["each"]  # a budget of one candidate is the base
    assert "gain: paired by prompt, over 4nfe" in printed


def test_verifiers_are_told_apart_by_the_held_out_one(genscale, tmp_path):
    out = tmp_path / "verifiers"
    words = (
        "--verifiers",
        "shapes_clip",
        "--verifiers",
        "compressibility+shapes_clip:0.5",
        "--budget",
        "8nfe",
    )
    code, printed, err = genscale("compare", "a red star", *words, *FEW, "--out", out, "--json")
    assert code == 0, err
    found = json.loads(printed)
    assert found["searched"] is None
    assert all(row["searched"] is None or row["searched"]["gain"] is None for row in found["rows"])
    assert set(found["rows"][2]["held_out"]) == {"shapes"}
    run = json.loads((out / "compressibility-shapes_clip-0.5/run.json").read_text())
    assert run["verifiers"]["search"] == ["compressibility", "shapes_clip:0.5"]


def test_without_a_budget_all_get_what_the_first_costs(genscale, tmp_path):
    words = ("--sampler", "best_of_n(candidates=3)", "--sampler", "snes")
    code, printed, err = genscale("compare", "a red star", *words, *FEW, "--out", tmp_path / "o", "--json")
    assert code == 0, err
    found = json.loads(printed)
    assert found["budget"] == "12nfe"
    assert found["rows"][2]["nfe"] <= 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "compare one thing at a time"),
        (("--sampler", "smc"), "compare one thing at a time"),
        (("--sampler", "smc", "--sampler", "snes", "--budgets", "8nfe", "--budgets", "9nfe"), "at once"),
        (("--sampler", "smc", "--sampler", "smc"), "'smc' is given twice"),
        (("--sampler", "smc", "--sampler", "snees"), "did you mean 'snes'"),
        (("--sampler", "smc", "--sampler", "snes(wdith=3)"), "has no option 'wdith'"),
        (("--sampler", "smc", "--sampler", "snes", "--model", "shapes-flo"), "did you mean 'shapes-flow'"),
        (("--sampler", "snes", "--sampler", "best_of_n", "--budget", "3nfe"), "is too small"),
        (("--sampler", "smc", "--sampler", "snes(3"), "cannot be read: write NAME"),
        (("--sampler", "smc", "--sampler", "snes", "--budget", "9s"), "sets none, give one such as 480nfe"),
        (("--verifiers", "shapes_clip", "--verifiers", "clipp", "--held-out", "shapes"), "did you mean"),
        (("--verifiers", "shapes", "--verifiers", "shapes_clip"), "is held out from all of them"),
    ],
)
def test_what_does_not_compare_is_refused_in_one_sentence(words, sentence, genscale, tmp_path):
    code, out, err = genscale("compare", "a red star", *words, *FEW, "--out", tmp_path / "o")
    told = [line for line in err.splitlines() if not line.startswith("1 of 2: ")]
    assert (code, out, len(told)) == (2, "", 1), err
    assert sentence in told[0]
    assert not (tmp_path / "o").exists()


def test_ranks_do_not_compare():
    with pytest.raises(UsageError, match=r"depend on the run.s own candidates and do not compare"):
        entries(Request(("x",), ensemble="rank"), ["smc", "snes"], [], [])


def test_a_budget_of_images_is_one_of_equal_nfe():
    request = Request(("x",), budget="8images", verifiers=("shapes_clip",))
    axis, found = entries(request, ["best_of_n", "smc"], [], [])
    assert (axis, [e.request.budget for e in found]) == ("sampler", ["8images", "8images"])
    axis, found = entries(request, [], [], ["4images", "8images"])
    assert (axis, [e.request.budget for e in found]) == ("budget", ["4images", "8images"])
    with pytest.raises(UsageError, match="sets none, give one such as 480nfe or 16images"):
        entries(Request(("x",), budget="9s"), ["best_of_n", "smc"], [], [])


def test_gains_are_paired():
    """A difference that is the same for every prompt has no interval, however much prompts differ."""
    scores = ScoreSummary.of([1.5, 10.5, 100.5], [1.0, 10.0, 100.0])
    assert (scores.gain.mean, scores.gain.low, scores.gain.high) == (0.5, None, None)
    assert scores.gain.text(signed=True) == "+0.500"
    assert (scores.mean.high - scores.mean.low) / 2 > 50
    unpaired = ScoreSummary.of([100.5, 1.5, 10.5], [1.0, 10.0, 100.0])
    assert unpaired.gain.mean == pytest.approx(0.5)
    assert (unpaired.gain.high - unpaired.gain.low) / 2 > 50


def test_a_prompt_without_a_base_is_left_out_of_its_means():
    told = {"prompt": "x", "nfe": 8, "finished": 2, "kl_of_best": None}
    best = {"total": 2.0, "held_out": {"judge": 1.0}}
    prompts = [
        told | {"best": best, "base": None},
        told | {"best": best, "base": {"total": 1.0, "held_out": {}}},
    ]
    record = {"prompts": prompts, "wall_seconds": 1.0}
    request = Request(("x", "x"), verifiers=("clip",), budget="8nfe", seed=1)
    found = comparison_of_runs("sampler", [ComparedRun("smc", "smc", request)], [record])
    assert found.rows[0].searched.each == (None, 1.0)
    assert (found.rows[0].searched.mean.mean, found.rows[0].searched.gain.mean) == (1.0, -1.0)
    assert found.rows[0].nfe is None


def test_texts_of_a_grid_stay_in_their_columns():
    long = "best_of_n(candidates=16, prune=0.3,0.6, survivors=0.25) and more words that never end " * 3
    for width, most in ((124, 3), (60, 2)):
        lines = Lettering(15).wrapped(long, width, most)
        assert len(lines) == most
        assert all(Lettering(15).width(line) <= width for line in lines)
    assert Lettering(15).wrapped("x" * 60, 100, 9)[0].startswith("xxx")
    assert Lettering(15).wrapped("", 100, 3) == []
    picture = Image.new("RGB", (64, 64), (200, 0, 0))
    drawn = image_grid.grid(
        ["base", long], [(long, [image_grid.Cell(picture, ("1",)), image_grid.Cell(None)])], "t", "n", 128
    )
    assert drawn.width < 168 + 2 * 150 + 60
    assert (200, 0, 0) in {colour for _, colour in drawn.convert("RGB").getcolors(1 << 20)}


# --------------------------------------------------------------------------------------- plan, completion


def test_plan_is_that_of_a_dry_run(genscale):
    words = (*PROMPTS, "--candidates", "3", *FEW, "--json")
    code, out, err = genscale("plan", *words)
    assert code == 0, err
    assert json.loads(out)["nfe"] == 2 * 3 * NFE
    assert json.loads(out) == json.loads(genscale("generate", *words, "--dry-run")[1])
    assert "NFE in all" in genscale("plan", *words[:-1])[1]
    code, _, err = genscale("plan", "a red star", "--candidats", "3")
    assert (code, "did you mean '--candidates'" in err) == (2, True)


def test_plan_has_the_options_of_generate():
    told = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in COMMANDS
    }
    written = {"--metadata", "--name", "--layout", "--preview"}
    assert told["generate"] - told["plan"] == {"--out", "--output", "-o", "--dry-run", *written}
    assert told["video"] == told["generate"]
    assert told["plan"] <= told["generate"]
    alone = {"--images", "--stop", "--set", "--calibration", "--from", "--ensemble", "--dry-run"}
    alone |= {"--candidates", "--n", "--num-images-per-prompt", "--layout"}
    assert told["generate"] - told["compare"] == alone
    assert told["compare"] - told["generate"] == {"--verifiers", "--budgets"}


def test_every_command_says_what_it_does_with_examples(genscale):
    for name in ("generate", "plan", "compare", "score", "rescore", "show", "replay", "resume"):
        for words in ([name], [name, "--help"]):
            code, out, err = genscale(*words)
            assert (code, err) == (0, "")
            assert f"Usage: genscale {name}" in out
        assert name == "resume" or f"genscale {name} " in out.split("Examples")[1]
    help_ = genscale("--help")[1]
    for told in ("Exit codes", "130", "--install-completion", "--show-completion"):
        assert told in help_


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("genscale generate --sampler best", {"best_of_n"}),
        ("genscale compare --sampler zero", {"zero_order"}),
        ("genscale score a.png --verifier compr", {"compressibility"}),
        ("genscale plan --model shapes-f", {"shapes-flow"}),
        ("genscale resc", {"rescore"}),
    ],
)
def test_the_shell_completes_names(line, wanted):
    words = line.split()
    told = {
        "_GENSCALE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
    code = "import sys; sys.argv = ['genscale']; from genscale.cli.app import app, main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | told
    )
    assert set(done.stdout.split()) == wanted, done.stderr
