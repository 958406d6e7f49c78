"""What `plan` says is spent, the pipeline's own image included; and nothing depends on the other prompts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import genscale
from genscale.runs.call_arguments import prompt_seeds
from tests.quick import quick

PROMPTS = ("a red star", "three green circles")
ONE = 8  # NFE of an image: 4 steps with guidance


def spent(record):
    """NFE of each prompt in all."""
    base = record.get("ledger_of_base", {}).get("evaluations", 0) / len(record["prompts"])
    return [p["nfe"] + base for p in record["prompts"]]


@pytest.fixture
def command(genscale, tmp_path):
    def run(name, *words, out="run"):
        more = ("--out", tmp_path / out) if name == "generate" else ()
        code, told, err = genscale(
            name, *words, "--verifier", "shapes_clip", "--held-out", "none", "--json", *more
        )
        assert code == 0, err
        return json.loads(told)

    return run


SAMPLERS = [
    "smc",
    "best_of_n",
    "successive_halving",
    "beam",
    "dts",
    "evolution",
    "rollover",
    "zero_order",
    "svdd",
]


@pytest.mark.parametrize("sampler", quick(SAMPLERS, ["smc"]))
@pytest.mark.parametrize("budget", ["96nfe", "8nfe", "20nfe", "5images", "9calls,200nfe"])
def test_the_image_of_the_pipeline_is_paid_out_of_the_budget(sampler, budget, command):
    words = ("a red star", "--sampler", sampler, "--steps", "4", "--seed", "1", "--budget", budget)
    plan, record = command("plan", *words), command("generate", *words)
    most = genscale.Budget.parse(budget).resolved(ONE)
    (total,) = spent(record)
    assert max(total, plan["nfe_per_prompt"]) <= most.nfe
    if sampler != "rollover":  # whose cost depends on the scores
        assert total <= plan["nfe_per_prompt"]
    assert plan["nfe"] == plan["nfe_per_prompt"]
    if most.verifier_calls:
        calls = record["ledger"]["verifier_calls"], record.get("ledger_of_base", {}).get("verifier_calls", {})
        assert sum(sum(c.values()) for c in calls) <= most.verifier_calls
    if most.nfe >= 2 * ONE:
        assert record["base"] is not None
        assert record["base"]["candidate"] == 0
    assert record["budget"] == plan["budget"] == str(most)


@pytest.mark.parametrize("sampler", ["smc", "best_of_n"])
def test_without_a_budget_the_plan_announces_it(sampler, command):
    words = (*PROMPTS, "--sampler", sampler, "--candidates", "3", "--steps", "4", "--seed", "1")
    plan, record = command("plan", *words), command("generate", *words)
    assert plan["nfe_of_base"] == (ONE if sampler == "smc" else 0)
    assert spent(record) == [plan["nfe_per_prompt"]] * 2
    assert plan["nfe"] == 2 * plan["nfe_per_prompt"]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


@pytest.mark.parametrize(
    "sampler", quick(["zero_order", "best_of_n", "smc", "annealing", "dts_star"], ["best_of_n"])
)
def test_a_prompt_does_not_depend_on_the_others(sampler, command, tmp_path):
    words = ("--sampler", sampler, "--steps", "4", "--seed", "3", "--budget", "64nfe")
    alone = command("generate", PROMPTS[1], *words, out="alone")
    others = (("a blue ring", PROMPTS[1]), (PROMPTS[1], "a blue ring"), ("a", "b", PROMPTS[1]))
    for n, prompts in enumerate(others):
        record = command("generate", *prompts, *words, out=f"run{n}")
        index = prompts.index(PROMPTS[1])
        found = record["prompts"][index]
        for role in ("base", "best"):
            assert found[role]["candidate"] == alone[role]["candidate"]
            assert found[role]["total"] == pytest.approx(alone[role]["total"], abs=1e-4)
            mine = pixels(tmp_path / f"run{n}" / f"{index:03d}-{role}.png")
            assert (
                np.abs(mine - pixels(tmp_path / "alone" / f"{role}.png")).max() <= 2
            )  # batches round otherwise


def test_every_base_is_the_pipeline_alone(command, tmp_path):
    command("generate", *PROMPTS, "--candidates", "2", "--steps", "4", "--seed", "3")
    pipe = genscale.load_pipeline("shapes-flow")
    for i, prompt in enumerate(PROMPTS):
        image = pipe(
            prompt, num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(3)
        ).images[0]
        assert np.abs(np.asarray(image, int) - pixels(tmp_path / "run" / f"{i:03d}-base.png")).max() <= 2


def test_a_prompt_that_comes_again_has_noise_of_its_own():
    seeds = prompt_seeds(("a", "b", "a", "a", "b"), 7)
    assert seeds[:2] == [7, 7]
    assert len(set(seeds)) == 4 + (seeds[2] == seeds[4])
    assert len({seeds[2], seeds[3], seeds[4], 7}) == 4
    assert prompt_seeds(("x", "a", "y", "a"), 7)[1::2] == [7, seeds[2]]


@pytest.mark.parametrize("prompts", [PROMPTS, ("a red star", "a red star")])
def test_candidate_0_of_several_prompts_is_replayed(prompts, command, genscale, tmp_path):
    command("generate", *prompts, "--candidates", "2", "--steps", "4", "--seed", "3")
    code, told, err = genscale(
        "replay", tmp_path / "run" / "001-base.png", "--out", tmp_path / "b.png", "--json"
    )
    assert code == 0, err
    assert json.loads(told)["same"]


def test_a_search_from_python_with_one_generator_is_replayed(genscale, tmp_path):
    """There candidate 0 of the second prompt is the second row of one draw, as in the pipeline itself."""
    import genscale as library

    pipe = library.load_pipeline("shapes-flow")
    scaled = library.scale(pipe, "best_of_n", "shapes_clip", candidates=2)
    call = {"num_inference_steps": 4, "guidance_scale": 3.0}
    output = scaled(list(PROMPTS), generator=torch.Generator().manual_seed(3), **call)
    output.search.save(tmp_path / "run")
    code, told, err = genscale(
        "replay", tmp_path / "run" / "001-base.png", "--out", tmp_path / "b.png", "--json"
    )
    assert code == 0, err
    assert json.loads(told)["same"]
    alone = pipe(list(PROMPTS), generator=torch.Generator().manual_seed(3), **call).images[1]
    assert np.abs(np.asarray(alone, int) - pixels(tmp_path / "run" / "001-base.png")).max() <= 2
    assert Path(tmp_path / "run" / "request.json").is_file()
