"""Drafts on the command line: planned, recorded, resumed, made again, calibrated and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genscale.cli.request_options import request_fields
from genscale.cli.summary_tables import _drafted
from genscale.key import Key
from genscale.results.draft_calibration import MeasuredDraft, kept_share, recommend
from genscale.runs.read_request import load_folder
from genscale.runs.request import Request
from tests.test_cli import NFE, STEPS, generate, record, tiny  # noqa: F401 - fixtures

DRAFT = ("--draft", "steps=1,keep=2")


def test_a_draft_that_a_file_brings_can_be_left_out() -> None:
    assert request_fields({"draft": "steps=1,keep=2"}) == {"draft": "steps=1,keep=2"}
    drafted = Request(prompts=("a dog",), draft="steps=1,keep=2")
    assert replace(drafted, **request_fields({"draft": " None"})).draft is None
    assert replace(drafted, **request_fields({"draft": None})).draft == drafted.draft


@pytest.mark.slow
def test_a_run_with_drafts_is_planned_recorded_and_made_again(
    generate: Any,  # noqa: F811
    genscale: Any,
    tiny: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    options = ("--budget", f"{6 * NFE}nfe", "--seed", 1)
    code, _, wrong = generate("a dog", *DRAFT, *options, "--out", out)
    assert code == 0, wrong
    made = record(out)
    assert made["request"]["draft"] == "steps=1,keep=2"
    assert load_folder(out).draft == "steps=1,keep=2"
    [found] = made["prompts"]
    drafts = found["drafts"]
    assert found["finished"] == 2
    assert found["nfe"] == 2 * drafts["finished"] + 2 * NFE
    assert found["nfe"] + NFE <= 6 * NFE  # beside the base, which the drafts may drop
    assert found["best"]["candidate"] in [i for i, _ in drafts["totals"][:2]]
    same = ("--model", tiny, "--verifier", "compressibility", "--steps", STEPS, "--size", "16x16", "--json")
    _, said, _ = genscale("plan", "a dog", *DRAFT, *options, *same)
    plan = json.loads(said)
    assert (plan["draft"], plan["drafts"], plan["nfe_per_draft"]) == ("steps=1,keep=2", drafts["finished"], 2)
    assert plan["nfe_per_prompt"] == found["nfe"] + NFE
    assert generate("a dog", *DRAFT, *options, "--out", out)[0] == 0  # nothing is left to do
    assert record(out)["ledger"]["evaluations"] - record(out)["ledger"]["probes"] <= NFE  # but the base
    assert "best_of_n · draft steps=1,keep=2 · seed 1" in genscale("show", out)[1]
    _, said, _ = genscale("plan", "--from", out / "best.png", "--draft", "none", "--json")
    assert json.loads(said)["draft"] is None
    code, said, wrong = genscale("replay", out / "best.png")
    assert (code, "the same pixels" in said) == (0, True), said + wrong


@pytest.mark.parametrize(
    ("text", "why"), [("steps=x", "no whole number"), ("stepz=1", "stepz"), ("keep=2", "changes nothing")]
)
def test_a_bad_draft_is_refused_in_a_sentence(text: str, why: str, generate: Any) -> None:  # noqa: F811
    code, _, wrong = generate("a dog", "--draft", text)
    assert code == 2
    assert why in " ".join(wrong.split())


def test_a_calibration_refuses_a_draft_before_it_makes_anything(
    genscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: Any) -> Any:
        raise AssertionError("something was generated")

    monkeypatch.setattr("genscale.commands.calibrate._search", search)
    given = ("a red star", "--steps", 2, "--candidates", 4, "--draft", "steps=1", "--draft", "stepz=1")
    code, _, wrong = genscale("calibrate-steps", *given, "--out", tmp_path / "c")
    assert (code, "stepz" in wrong) == (2, True), wrong
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("drafts", "said"), [([4, 4], "4 drafts a prompt (8 NFE)"), ([3, 4], "3 to 4 drafts")]
)
def test_a_summary_says_how_many_drafts_there_were(drafts: list[int], said: str) -> None:
    prompts = [{"finished": 2, "drafts": {"finished": n, "nfe": 2 * n}} for n in drafts]
    text = _drafted(prompts)
    assert text.startswith(said)
    assert text.endswith("2 made in full")
    assert _drafted([{"finished": 2}]) == ""


@pytest.mark.slow
def test_drafts_are_calibrated(genscale: Any, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    same = (
        "--model",
        tiny,
        "--verifier",
        "compressibility",
        "--steps",
        STEPS,
        "--size",
        "16x16",
        "--seed",
        1,
    )
    lossless = ("--draft", f"steps={STEPS}", "--draft", "steps=1")
    code, said, wrong = genscale(
        "calibrate-steps",
        "a dog",
        "a ring",
        "--candidates",
        4,
        *lossless,
        "--alpha",
        0.4,
        *same,
        "--out",
        tmp_path / "c",
    )
    assert code == 0, wrong
    whole, short = json.loads((tmp_path / "c" / "calibration.json").read_text())["drafts"]
    assert (whole["cost"], short["cost"]) == (1.0, pytest.approx(1 / STEPS))
    assert whole["rho"] == pytest.approx(1)
    assert whole["kept"]["1"] == pytest.approx(1)
    assert whole["margin"] == 0
    assert short["kept"]["4"] == pytest.approx(1)
    assert [whole["draft"], short["draft"]] == [f"steps={STEPS}", "steps=1"]
    assert f"steps={STEPS}" in said


# ------------------------------------------------------------------------------ what is recommended


def test_the_recommendation_is_the_best_that_the_budget_pays_for() -> None:
    finals = Key((3,)).normal((20, 8)).double().numpy()
    drafts = finals + 0.5 * Key((4,)).normal((20, 8)).double().numpy()
    found = recommend(drafts, finals, 0.25, 4)
    assert found is not None
    assert found.candidates * 0.25 + found.keep <= 4
    shares = [kept_share(drafts, finals, min(8, int((4 - m) / 0.25)), m) for m in (1, 2, 3)]
    assert found.share == pytest.approx(max(shares))
    assert found.without < found.share < 1
    useless = Key((5,)).normal((20, 8)).double().numpy()
    worse = recommend(useless, finals, 0.25, 4)
    assert worse is not None
    assert worse.share < worse.without  # a draft that knows nothing loses to fewer candidates


def test_lossless_drafts_keep_all_and_few_prompts_give_no_margin() -> None:
    finals = Key((3,)).normal((3, 8)).double().numpy()
    found = MeasuredDraft.of("steps=1", 1.0, finals, finals, 0.1)
    assert found.kept["1"] == pytest.approx(1)
    assert found.margin is None
    assert np.isclose(found.rho or 0, 1)
    assert recommend(finals, finals, 1.0, 0) is None
