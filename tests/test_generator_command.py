"""The command line on a function of a module (--model module:function), and with --arm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.quick import quick

NOISE, SEEDED = "tests.generators:noise", "tests.generators:seeded"
JUDGE = ("--verifier", "tests.generators:brightness", "--held-out", "none")


def told(found: tuple[int, str, str]) -> Any:
    code, out, err = found
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("model", quick([NOISE, SEEDED], [SEEDED]))
def test_generate_plan_show_rescore_and_replay(genscale: Any, tmp_path: Path, model: str) -> None:
    words = ("a star", "a ring", "--model", model, "--seed", 5, "--budget", "6images", *JUDGE)
    plan = told(genscale("plan", *words, "--json"))
    assert (plan["nfe"], plan["nfe_per_candidate"], plan["sampler"]["name"]) == (12, 1, "best_of_n")
    run = told(genscale("generate", *words, "--out", tmp_path / "run", "--json"))
    assert run["ledger"]["evaluations"] == 12
    assert [p["finished"] for p in run["prompts"]] == [6, 6]
    again = told(genscale("generate", *words, "--out", tmp_path / "run", "--json"))
    assert again["ledger"]["evaluations"] == 0
    assert [p["best"] for p in again["prompts"]] == [p["best"] for p in run["prompts"]]
    assert genscale("show", tmp_path / "run")[0] == 0
    held = "tests.generators:darkness"
    assert genscale("rescore", tmp_path / "run", "--verifier", held)[0] == 0
    picture = tmp_path / "run" / "000-best.png"
    code, _, err = genscale("replay", picture, "--out", tmp_path / "again.png")
    assert code == 2
    assert "asks to run code of a module" in err
    found = told(
        genscale("replay", picture, "--out", tmp_path / "again.png", "--trust-remote-code", "--json")
    )
    assert found["same"]
    assert (found["how"], found["nfe"]) == ("candidate", 1)


def test_a_folder_runs_no_code_unless_it_is_trusted(genscale: Any, tmp_path: Path) -> None:
    words = ("a star", "--model", NOISE, "--seed", 5, "--candidates", 3, *JUDGE)
    told(genscale("generate", *words, "--out", tmp_path / "run", "--json"))
    (tmp_path / "run" / "run.json").unlink()
    code, _, err = genscale("resume", tmp_path / "run")
    assert code == 2
    assert "--trust-folder" in err
    assert genscale("resume", tmp_path / "run", "--trust-folder")[0] == 0
    code, _, err = genscale("generate", "--from", tmp_path / "run" / "best.png", "--verifier", JUDGE[1])
    assert code == 2
    assert "name it again with --model" in err


@pytest.mark.parametrize(
    ("model", "more", "why"),
    [
        ("tests.generators:nothing", (), "cannot be imported"),
        ("no.such.module:f", (), "cannot be imported"),
        ("tests.generators:NAME", (), "not a callable (prompt, generator or seed) -> image"),
        ("tests.generators:fixed", (), "takes neither a generator nor a seed"),
        (NOISE, ("--sampler", "smc"), "needs a denoising loop"),
        (NOISE, ("--lora", "x.safetensors"), "--lora says how a pipeline is loaded"),
        (NOISE, ("--guidance", "3"), "takes no guidance_scale"),
        (NOISE, ("--allocate", "even"), "give --arm, too"),
        (NOISE, ("--arm", "gain"), "--arm 'gain' cannot be read"),
        (NOISE, ("--arm", "gian=3"), "did you mean 'gain'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    genscale: Any, tmp_path: Path, model: str, more: tuple[str, ...], why: str
) -> None:
    code, _, err = genscale(
        "generate", "a star", "--model", model, "--candidates", 2, *JUDGE, *more, "--out", tmp_path / "run"
    )
    assert code == 2
    assert why in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", quick([NOISE, "shapes-flow"], [NOISE]))
def test_arms_on_the_command_line(genscale: Any, tmp_path: Path, model: str) -> None:
    own = ("--arm", "gain=0.5", "--arm", "gain=0.9,nfe=2") if model == NOISE else (
        "--steps", 2, "--arm", "guidance=1", "--arm", "guidance=5,steps=3,prompt={} on black", "--arm", "",
    )  # fmt: skip
    words = ("a red star", "--model", model, "--seed", 5, *own, "--allocate", "thompson", "--candidates", 7)
    run = told(genscale("generate", *words, *JUDGE, "--out", tmp_path / "run", "--json"))
    assert run["best"]["candidate"] >= 0
    assert run["sampler"]["allocate"] == "thompson"
    assert run["prompts"][0]["finished"] == 7
    picture = tmp_path / "run" / "best.png"
    words = ("replay", picture, "--out", tmp_path / "again.png", "--json")
    found = told(genscale(*words, *(("--trust-remote-code",) if model == NOISE else ())))
    assert found["same"]
    assert found["how"] == "candidate"


def test_a_search_in_python_is_replayed_by_the_command_line(genscale: Any, tmp_path: Path) -> None:
    import genscale as package
    from tests.generators import brightness, fresh, noise

    arms = [{"gain": 0.5}, {"gain": 0.9}]
    better = package.scale(noise, "arms", brightness, arms=arms, allocate="halving", candidates=5)
    better.search(["a", "b"], generator=fresh(), size=6).save(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["request"]["arm"] == ["gain=0.5", "gain=0.9"]
    assert record["request"]["model"] == NOISE
    code, _, err = genscale("replay", tmp_path / "run" / "001-best.png", "--trust-remote-code")
    assert code == 2
    assert "does not hold" in err  # the verifier, a function
    with Image.open(tmp_path / "run" / "001-best.png") as image:
        assert np.asarray(image).shape == (6, 6, 3)
