"""The command line, in process: what it writes, how it goes on, and one sentence for what cannot be done."""

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from genscale.errors import UsageError
from genscale.pipelines.loading import EMBEDDED, folder_of
from genscale.plugins import options as sampler_options
from genscale.plugins import registry
from genscale.runs.prompt_files import read_prompts
from genscale.runs.read_request import load_request
from tests.zoo import ZOO

STEPS = 2
NFE = 2 * STEPS  # of one candidate: guidance counts twice


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a tiny diffusers pipeline."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    ZOO["stable_diffusion"].build().save_pretrained(folder)
    return folder


@pytest.fixture
def generate(genscale, tiny):
    """`genscale generate` with the tiny pipeline and a verifier that needs no weights."""

    def run(*words):
        options = ("--model", tiny, "--verifier", "compressibility", "--steps", STEPS, "--size", "16x16")
        return genscale("generate", *options, *words)

    return run


def record(folder):
    return json.loads((folder / "run.json").read_text())


def pixels(path):
    with Image.open(path) as image:
        return image.tobytes()


# ------------------------------------------------------------------------------------------ what is written


def test_a_run_leaves_pictures_a_contact_sheet_and_a_record(generate, tmp_path):
    code, _, err = generate("a red star", "--candidates", 5, "--seed", 7, "--out", tmp_path / "run")
    assert code == 0, err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("best.png", "base.png", "contact.png", "run.json", "request.json", "archive.jsonl", "latents"),
    }
    run = record(tmp_path / "run")
    assert run["prompt"] == "a red star"
    assert run["seed"] == 7
    assert run["sampler"]["name"] == "best_of_n"
    assert run["sampler"]["candidates"] == 5
    assert run["verifiers"]["search"] == ["compressibility"]
    assert run["best"]["search"]["compressibility"] >= run["base"]["search"]["compressibility"]
    assert run["base"]["candidate"] == 0
    assert run["ledger"]["evaluations"] == 5 * NFE
    assert run["ledger"]["verifier_calls"] == {"compressibility": 5}
    for key in ("backwards", "decodes", "seconds", "peak_memory_bytes"):
        assert key in run["ledger"]
    assert set(run["versions"]) == {"genscale", "python", "torch", "diffusers", "transformers"}


@pytest.mark.parametrize(
    ("sampler", "option", "more"),
    [
        ("smc", "particles", ()),
        ("search_over_paths", "paths", ()),
        ("zero_order", "neighbours", ("--rounds", 1)),
    ],
)
def test_candidates_is_an_option_of_every_sampler(sampler, option, more, generate, tmp_path):
    words = ("a red star", "--sampler", sampler, *more, "--steps", 4)
    code, _, err = generate(*words, "--candidates", 3, "--out", tmp_path / "run")
    assert code == 0, err
    run, asked = record(tmp_path / "run"), json.loads((tmp_path / "run" / "request.json").read_text())
    assert run["sampler"][option] == 3
    assert asked["sampler_fields"][option] == 3
    assert "candidates" not in run["sampler"] | asked["sampler_fields"]
    code, _, err = generate(
        *words, f"--{option}", 3, "--out", tmp_path / "run"
    )  # the same run: nothing to do
    assert code == 0, err
    again = ("--from", tmp_path / "run" / "best.png", "--candidates", 2, "--out", tmp_path / "other")
    code, _, err = generate(*again)
    assert code == 0, err
    assert record(tmp_path / "other")["sampler"][option] == 2
    code, out, err = generate(*words, "--candidates", 3, f"--{option}", 3, "--out", tmp_path / "third")
    assert (code, out) == (2, "")
    assert "give one of them" in err
    assert len(err.strip().splitlines()) == 1


def test_json_is_the_record_with_the_folder(generate, tmp_path):
    code, out, err = generate("a red star", "--candidates", 2, "--out", tmp_path / "run", "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert printed.pop("folder") == str(tmp_path / "run")
    assert printed == record(tmp_path / "run")


def test_a_tree_is_drawn_in_the_folder_of_its_run(generate, genscale, tmp_path):
    out = tmp_path / "run"
    words = ("--sampler", "dts_star", "--rollouts", 4, "--widen", "paper", "--levels", "0.4", "--images", 2)
    code, _, err = generate("a red star", "--steps", 5, *words, "--out", out)
    assert code == 0, err
    run = record(out)
    assert run["sampler"]["widen"] == "paper"
    assert set(run["prompts"][0]["pictures"]) >= {"best.png", "best-2.png"}
    assert run["prompts"][0]["pictures"]["best.png"] == run["best"]["candidate"]
    code, shown, err = genscale("tree", out)
    assert (code, shown, err) == (0, f"{out}/tree.png\n", "")
    with Image.open(out / "tree.png") as image:
        assert image.width == 1350
    code, shown, _ = genscale("tree", out, "--json")
    assert json.loads(shown) == {"folder": str(out), "files": ["tree.png"]}
    assert genscale("resume", out)[0] == 0  # a drawing is no obstacle


def test_a_tree_of_no_run(refused, tmp_path):
    for folder, sentence in ((tmp_path, "holds no run"), (tmp_path / "gone", "is not a folder")):
        assert sentence in refused("tree", folder)


def test_several_prompts_are_numbered_and_share_a_contact_sheet(generate, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# shapes\na red star\n\na blue ring\n")
    out = tmp_path / "run"
    code, _, err = generate("--prompts", prompts, "a dog", "--candidates", 3, "--images", 2, "--out", out)
    assert code == 0, err
    run = record(out)
    assert [p["prompt"] for p in run["prompts"]] == ["a dog", "a red star", "a blue ring"]
    for i, found in enumerate(run["prompts"]):
        assert found["files"]["best"] == [f"{i:03d}-best.png", f"{i:03d}-best-2.png"]
        assert all((out / name).is_file() for name in found["files"]["best"] + found["files"]["base"])
    assert run["contact_sheets"] == ["contact.png"]


def test_the_summary_names_the_files_of_all_prompts(generate, tmp_path):
    out = tmp_path / "run"
    told = generate("a dog", "a cat", "an owl", "--candidates", 2, "--images", 2, "--out", out)[1]
    assert told.splitlines()[-1] == (
        f"{out}: 000-best.png to 002-best.png, 000-best-2.png to 002-best-2.png, 000-base.png to 002-base.png, "
        "contact.png, run.json"
    )
    told = generate("a dog", "--candidates", 1, "--out", tmp_path / "one")[1]
    assert told.splitlines()[-1] == f"{tmp_path / 'one'}: best.png, base.png, contact.png, run.json"


@pytest.mark.parametrize("sampler", ["best_of_n", "zero_order", "smc"])
def test_a_budget_of_images_is_said_in_images_and_nfe(sampler, generate, tmp_path):
    words = ("a dog", "--steps", 4, "--sampler", sampler, "--budget", "3 images", "--out", tmp_path / "run")
    both = f"{3 * 2 * 4}nfe,3images"
    plan = json.loads(generate(*words, "--dry-run", "--json")[1])
    assert plan["budget"] == both
    assert plan["nfe"] <= 3 * 2 * 4
    code, _, err = generate(*words)
    assert code == 0, err
    run = record(tmp_path / "run")
    assert run["budget"] == both
    assert run["request"]["budget"] == "3 images"
    base = run.get("ledger_of_base", {}).get("evaluations", 0)
    assert run["prompts"][0]["nfe"] + base == plan["nfe"]
    assert sampler != "best_of_n" or run["prompts"][0]["finished"] == 3


def test_default_folder_is_a_fresh_one(generate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert generate("a red star", "--candidates", 1)[0] == 0
    assert len(list(Path("runs").glob("*/best.png"))) == 2


def test_one_candidate_is_the_base(generate, tmp_path):
    assert generate("a red star", "--candidates", 1, "--out", tmp_path / "run")[0] == 0
    assert pixels(tmp_path / "run/best.png") == pixels(tmp_path / "run/base.png")


def test_a_picture_says_how_it_was_made_and_can_be_made_again(generate, genscale, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    words = ("a red star, large", "--candidates", 4, "--seed", 3, "--negative", "blur", "--guidance", 5)
    assert generate(*words, "--out", first)[0] == 0
    with Image.open(first / "best.png") as image:
        lines = image.text["parameters"].split("\n")
    assert lines[:2] == ["a red star, large", "Negative prompt: blur"]
    assert lines[2].startswith(
        f"Steps: {STEPS}, Sampler: DDIM, CFG scale: 5.0, Seed: 3, Size: 16x16, Model: tiny"
    )
    request = load_request(first / "best.png")
    assert request.prompts == ("a red star, large",)
    assert request.sampler_fields == {"candidates": 4}
    code, _, err = genscale("generate", "--from", first / "best.png", "--out", again)
    assert code == 0, err
    assert pixels(first / "best.png") == pixels(again / "best.png")
    assert record(first)["best"]["total"] == record(again)["best"]["total"]


def test_other_options_override_those_of_a_picture(generate, genscale, tmp_path):
    assert generate("a red star", "--candidates", 2, "--out", tmp_path / "first")[0] == 0
    words = ("--from", tmp_path / "first/best.png", "a dog", "--candidates", 3, "--out", tmp_path / "second")
    assert genscale("generate", *words)[0] == 0
    run = record(tmp_path / "second")
    assert (run["prompt"], run["sampler"]["candidates"]) == ("a dog", 3)


def test_no_metadata(generate, tmp_path):
    assert generate("a red star", "--candidates", 1, "--no-metadata", "--out", tmp_path / "run")[0] == 0
    with Image.open(tmp_path / "run/best.png") as image:
        assert image.text == {}


def test_an_input_picture_makes_it_image_to_image(generate, tmp_path):
    Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / "in.png")
    mask = Image.new("L", (40, 30), 0)
    mask.paste(255, (20, 0, 40, 30))
    mask.save(tmp_path / "mask.png")
    words = (
        "a red star",
        "--candidates",
        2,
        "--image",
        tmp_path / "in.png",
        "--pipeline-args",
        '{"strength": 1.0}',
    )
    assert generate(*words, "--out", tmp_path / "run")[0] == 0
    code, _, err = generate(*words, "--mask-image", tmp_path / "mask.png", "--out", tmp_path / "painted")
    assert code == 0, err


def test_verifiers_have_weights_options_and_roles(generate, tmp_path, monkeypatch):
    (tmp_path / "judges.py").write_text(
        "def dark(media, prompts):\n    return [-m.convert('L').getpixel((0, 0)) for m in media]\n"
    )
    monkeypatch.chdir(tmp_path)
    words = (
        "--verifier",
        "judges:dark:0.01",
        "--held-out",
        "compressibility(direction=incompressible, quality=80)",
    )
    code, _, err = generate("a red star", "--candidates", 3, *words, "--ensemble", "rank", "--out", "run")
    assert code == 0, err
    best = record(tmp_path / "run")["best"]
    assert set(best["search"]) == {"compressibility", "judges:dark"}
    assert set(best["held_out"]) == {"compressibility(direction=incompressible, quality=80)"}


@pytest.mark.skipif(not (folder_of("shapes-flow") / "model_index.json").is_file(), reason="not trained yet")
def test_embedded_model_is_the_default_with_its_own_verifiers(genscale, tmp_path):
    words = (
        "generate",
        "a red star",
        "--candidates",
        2,
        "--steps",
        3,
        "--seed",
        1,
        "--out",
        tmp_path / "run",
    )
    code, _, err = genscale(*words)
    assert code == 0, err
    run = record(tmp_path / "run")
    assert run["model"] == "shapes-flow"
    assert set(run["best"]["search"]) == {"shapes_clip"}
    assert set(run["best"]["held_out"]) == {"shapes"}
    with Image.open(tmp_path / "run/best.png") as image:
        assert image.size == (64, 64)


def test_boxes_hold_for_each_prompt_and_are_gone_on_with_from_anywhere(
    generate, genscale, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    boxes = {"0": [{"text": "a star", "box": [0, 0, 0.5, 0.5]}], "an owl": []}
    Path("boxes.json").write_text(json.dumps(boxes))
    words = ("a red star", "an owl", "--candidates", 2, "--seed", 1, "--boxes", "boxes.json")
    code, _, err = generate(*words, "--out", "run")
    assert code == 0, err
    run = record(tmp_path / "run")
    assert run["request"]["boxes"] == "boxes.json"
    request = json.loads(Path("run/request.json").read_text())
    assert request["boxes"] == str(tmp_path / "boxes.json")
    generate("a red star", "an owl", "--candidates", 2, "--seed", 1, "--out", "plain")
    scores, plain = (
        [p["best"]["search"] for p in record(tmp_path / name)["prompts"]] for name in ("run", "plain")
    )
    assert scores[0]["boxes(compressibility)"] != plain[0]["compressibility"]
    assert scores[1]["boxes(compressibility)"] == plain[1]["compressibility"]  # it has no boxes
    assert generate(*words, "--out", "plain")[0] == 2  # another run
    monkeypatch.chdir("/")
    code, _, err = genscale("resume", tmp_path / "run")
    assert code == 0, err
    assert [p["best"]["search"] for p in record(tmp_path / "run")["prompts"]] == scores


# ------------------------------------------------------------------------------------------------- going on


class Plug:
    """What an entry point is to genscale.plugins.registry."""

    def __init__(self, cls):
        self.load = lambda: cls


@pytest.fixture
def plug_in(monkeypatch):
    """Register a verifier under a name, beside the real ones."""
    found = registry.found

    def register(name, cls):
        monkeypatch.setattr(
            registry, "found", lambda kind: found(kind) | ({name: Plug(cls)} if kind == "verifier" else {})
        )

    return register


class Moody:
    """The red of the first pixel; raises or answers NaN at call number `at`."""

    calls = 0
    at: ClassVar[int | None] = None
    answer: ClassVar[float | BaseException] = float("nan")

    def __call__(self, media, prompts):
        scores = []
        for picture in media:
            Moody.calls += 1
            if Moody.calls == Moody.at and isinstance(Moody.answer, BaseException):
                raise Moody.answer
            broken = Moody.calls == Moody.at
            scores.append(Moody.answer if broken else picture.convert("RGB").tobytes()[0])
        return scores


@pytest.fixture
def moody(plug_in, genscale, tiny):
    """Generate six candidates with a verifier that fails at call `at`."""

    def run(out, at, answer):
        Moody.calls, Moody.at, Moody.answer = 0, at, answer
        plug_in("moody", Moody)
        options = ("--model", tiny, "--verifier", "moody", "--steps", STEPS, "--size", "16x16", "--seed", 4)
        return genscale(
            "generate", "a dog", *options, "--candidates", 6, "--wave", 2, "--batch-size", 2, "--out", out
        )

    return run


def test_ctrl_c_writes_the_best_so_far_and_resume_goes_on(moody, genscale, tmp_path):
    code, out, _ = moody(tmp_path / "run", 5, KeyboardInterrupt())
    assert code == 130
    assert "best so far" in out
    assert record(tmp_path / "run")["stopped"] == "interrupted"
    assert record(tmp_path / "run")["prompts"][0]["finished"] == 4
    Moody.at = None
    assert genscale("resume", tmp_path / "run")[0] == 0
    assert moody(tmp_path / "whole", None, 0.0)[0] == 0
    resumed, whole = record(tmp_path / "run"), record(tmp_path / "whole")
    assert resumed["stopped"] is None
    assert resumed["best"]["total"] == whole["best"]["total"]
    assert resumed["best"]["candidate"] == whole["best"]["candidate"]
    assert pixels(tmp_path / "run/best.png") == pixels(tmp_path / "whole/best.png")


def test_ctrl_c_before_any_picture(moody, tmp_path):
    code, _, err = moody(tmp_path / "run", 1, KeyboardInterrupt())
    assert code == 130
    assert "interrupted before anything was finished" in err
    assert not (tmp_path / "run/best.png").exists()


def test_a_candidate_whose_score_is_nan_is_dropped_by_name(moody, genscale, tmp_path):
    code, out, err = moody(tmp_path / "run", 4, float("nan"))
    assert code == 0
    assert "candidate 3 of 'a dog' was dropped: the verifier moody gave NaN." in err
    assert "1 candidate dropped: the verifier moody gave NaN" in out
    told = record(tmp_path / "run")["prompts"][0]
    steps = int(STEPS)
    assert told["finished"] == 5
    assert told["dropped"] == [
        {"candidate": 3, "step": steps, "final": True, "where": "verifier moody", "what": "NaN"}
    ]
    assert "1 candidate dropped: the verifier moody gave NaN" in genscale("show", tmp_path / "run")[1]
    Moody.at = None
    assert genscale("resume", tmp_path / "run")[0] == 0
    assert record(tmp_path / "run")["prompts"][0] == told


def test_if_all_candidates_fail_one_sentence_says_so(moody, genscale, tmp_path):
    class Never:
        def __call__(self, media, prompts):
            return [float("inf")] * len(media)

    Moody.__call__, kept = Never.__call__, Moody.__call__
    try:
        code, _, err = moody(tmp_path / "run", None, 0.0)
    finally:
        Moody.__call__ = kept
    assert code == 2
    assert "all 6 candidates of 'a dog' failed: the verifier moody gave inf (6 times)" in err


def test_the_same_command_again_spends_nothing(generate, tmp_path):
    words = ("a red star", "--candidates", 3, "--out", tmp_path / "run", "--json")
    first, second = (json.loads(generate(*words)[1]) for _ in range(2))
    assert second["seed"] == first["seed"]
    assert second["ledger"]["evaluations"] == 0
    assert second["best"]["total"] == first["best"]["total"]


def test_another_run_in_the_folder_is_refused(generate, tmp_path):
    assert generate("a red star", "--candidates", 2, "--out", tmp_path / "run")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    code, _, err = generate("a dog", "--candidates", 2, "--out", tmp_path / "run")
    assert code == 2
    assert "holds another run (its prompts differs)" in err
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}


def test_resume_needs_a_run(genscale, tmp_path):
    assert "holds no run" in genscale("resume", tmp_path)[2]
    code, _, err = genscale("resume", tmp_path / "nowhere")
    assert (code, "is not a folder" in err) == (2, True)
    (tmp_path / "request.json").write_text('{"prompts": ["x"], "steps": "many"}')
    code, _, err = genscale("resume", tmp_path)
    assert (code, "no request that this version" in err) == (2, True)


# ------------------------------------------------------------------------------------------------ bad input


def test_dry_run_writes_nothing_and_tells_what_will_be_spent(generate, tmp_path):
    words = ("a red star", "a dog", "--budget", f"{3 * NFE + 1}nfe", "--out", tmp_path / "run", "--json")
    code, out, _ = generate(*words, "--dry-run")
    plan = json.loads(out)
    assert code == 0
    assert not (tmp_path / "run").exists()
    assert (plan["steps"], plan["nfe_per_candidate"], plan["nfe_per_prompt"], plan["nfe"]) == (2, 4, 12, 24)
    assert json.loads(generate(*words)[1])["ledger"]["evaluations"] == plan["nfe"]
    assert "NFE in all" in generate(*words[:-1], "--dry-run")[1]


def test_a_rule_stops_each_prompt_and_the_record_says_so(genscale, generate, tmp_path):
    words = (
        "a red star",
        "a dog",
        "--stop",
        "patience:3",
        "--wave",
        2,
        "--seed",
        7,
        "--out",
        tmp_path / "run",
    )
    plan = generate(*words, "--dry-run")[1]
    assert "patience:3" in plan
    assert "until --stop or the budget ends it" in plan
    assert json.loads(generate(*words, "--dry-run", "--json")[1])["stop"] == "patience:3"
    code, out, err = generate(*words)
    assert code == 0, err
    run = record(tmp_path / "run")
    assert run["stop"] == "patience:3"
    for found in run["prompts"]:
        after = found["stopped_by"]["after"]
        assert found["stopped_by"] == {"rule": "patience:3", "after": after}
        assert found["finished"] == 2 * -(-after // 2)
        assert found["nfe"] == NFE * found["finished"]
        assert found["kl_of_best"]["candidates"] == found["finished"]
        assert found["kl_of_best"]["bound"] is False
    assert "patience:3 stopped 2 of 2 prompts after" in out
    assert "nats" not in out
    again = json.loads(genscale("resume", tmp_path / "run", "--json")[1])
    assert again["ledger"]["evaluations"] == 0
    assert [p["stopped_by"] for p in again["prompts"]] == [p["stopped_by"] for p in run["prompts"]]


def test_what_a_budget_and_a_rule_allow_is_said_as_at_most(generate):
    words = ("a red star", "--budget", f"{3 * NFE}nfe", "--dry-run")
    assert "at most 12" in generate(*words, "--stop", "patience:3")[1]
    assert "at most" not in generate(*words)[1]


def test_the_record_says_how_far_the_best_of_n_may_be(generate, tmp_path):
    code, out, err = generate("a red star", "--candidates", 4, "--seed", 7, "--out", tmp_path / "run")
    assert code == 0, err
    found = record(tmp_path / "run")["prompts"][0]
    assert found["stopped_by"] is None
    assert found["kl_of_best"] == {"candidates": 4, "nats": pytest.approx(0.6363, abs=1e-4), "bound": True}
    assert "KL" not in out
    words = ("--sampler", "zero_order", "--rounds", 1, "--out", tmp_path / "other")
    assert "KL" not in generate("a red star", *words)[1]
    assert record(tmp_path / "other")["prompts"][0]["kl_of_best"] is None


BAD = {
    "unknown sampler": (
        ["--sampler", "best_of_m"],
        "sampler 'best_of_m' is unknown (did you mean 'best_of_n'?)",
    ),
    "unknown verifier": (["--verifier", "clipp"], "verifier 'clipp' is unknown (did you mean 'clip'?)"),
    "unreadable verifier": (["--verifier", "clip:a:b:c"], "verifier 'clip:a:b:c' cannot be read"),
    "verifier's option": (["--verifier", "compressibility(qualty=3)"], "did you mean 'quality'"),
    "verifier's value": (["--verifier", "compressibility(quality=x)"], "must be a whole number"),
    "missing module": (["--verifier", "no_such:thing"], "verifier 'no_such:thing' cannot be imported"),
    "no callable": (["--verifier", "sys:path"], "is a list, not a callable"),
    "unknown option": (
        ["--candidate", "3"],
        "option '--candidate' is unknown (did you mean '--candidates'?)",
    ),
    "unknown flag": (["--gidance", "3"], "option '--gidance' is unknown (did you mean '--guidance'?)"),
    "unknown field": (["--set", "neighbors=3"], "sampler 'best_of_n' has no option 'neighbors'"),
    "unreadable field": (["--set", "candidates"], "--set 'candidates' cannot be read"),
    "value of a field": (["--candidates", "many"], "cannot be 'many': it must be a whole number or none"),
    "bad field": (["--candidates", "0"], "at least 1 candidate"),
    "no value": (["--candidates"], "option '--candidates' needs a value"),
    "value of an option": (["--steps", "many"], "Invalid value for '--steps'"),
    "unknown model": (
        ["--model", "shapes-flo"],
        "model 'shapes-flo' is unknown (did you mean 'shapes-flow'?)",
    ),
    "missing model file": (
        ["--model", "nowhere.safetensors"],
        "model file 'nowhere.safetensors' does not exist",
    ),
    "unreadable budget": (["--budget", "7 apples"], "budget '7 apples': cannot read"),
    "budget of nothing": (["--budget", "0nfe"], "allows nothing"),
    "budget without a unit": (
        ["--budget", "8"],
        "cannot read '8' without its unit (8images: the compute of 8 images",
    ),
    "budget too small": (
        ["--budget", f"{NFE - 1}nfe"],
        f"too small: one sample of {STEPS} steps takes {NFE}",
    ),
    "unreadable stop": (["--stop", "patients:8"], "stop 'patients:8': cannot read 'patients:8'"),
    "stop that never does": (["--stop", "gain:0"], "must be a number above 0"),
    "stop by ranks": (
        ["--stop", "patience:8", "--ensemble", "rank"],
        "stop 'patience:8' needs scores that do not depend on the other candidates",
    ),
    "missing image": (["--image", "nowhere.png"], "--image 'nowhere.png' cannot be read: No such file"),
    "unreadable image": (["--image", __file__], "cannot be read: it is not an image"),
    "mask alone": (["--mask-image", "PICTURE"], "give both"),
    "control image": (["--control-image", "PICTURE"], "takes no control_image"),
    "size": (["--size", "large"], "--size 'large' cannot be read"),
    "size of the pipeline": (["--size", "17x16"], "refuses its arguments: `height` and `width`"),
    "frames of an image": (["--frames", "8"], "takes no num_frames: leave --frames out"),
    "arguments": (["--pipeline-args", '{"guidance_scal": 1}'], "takes no 'guidance_scal' (did you mean"),
    "arguments no JSON": (["--pipeline-args", "strength=1"], "--pipeline-args is not JSON"),
    "arguments no object": (["--pipeline-args", "3"], "must be a JSON object"),
    "ensemble": (["--ensemble", "rnk"], "ensemble 'rnk' is unknown (did you mean 'rank'?)"),
    "offload": (["--offload", "modle"], "offload 'modle' is unknown (did you mean 'model'?)"),
    "attention": (["--attention", "xfromers"], "attention 'xfromers' is unknown (did you mean 'xformers'?)"),
    "device": (["--device", "toaster"], "device 'toaster' is unknown"),
    "dtype": (["--dtype", "int8"], "dtype 'int8' is unknown"),
    "seed": (["--seed", "-1"], "--seed -1 must be 0 or more"),
    "images": (["--images", "0"], "--images 0 must be at least 1"),
    "missing boxes": (["--boxes", "nowhere.json"], "boxes file 'nowhere.json' cannot be read: No such file"),
    "boxes that are none": (["--boxes", __file__], "is not JSON"),
    "missing prompt file": (["--prompts", "nowhere.txt"], "prompt file 'nowhere.txt' cannot be read"),
    "empty prompt file": (["--prompts", "EMPTY"], "holds no prompt"),
    "empty prompt": ([""], "there is no prompt"),
    "no metadata": (["--from", "PICTURE"], "carries no genscale metadata"),
    "no image": (["--from", __file__], "it is not an image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, generate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("# nothing\n\n")
    Image.new("RGB", (8, 8)).save("picture.png")
    words, sentence = BAD[case]
    stand_ins = {"EMPTY": "empty.txt", "PICTURE": "picture.png"}
    code, out, err = generate("a red star", "--out", "some/run", *(stand_ins.get(w, w) for w in words))
    assert code == 2
    assert sentence in err
    assert err.startswith("genscale: ")
    assert err.count("\n") == 1
    assert out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"empty.txt", "picture.png"}


def test_a_refusal_is_json_with_json(generate):
    code, out, err = generate("a red star", "--sampler", "nothing", "--json")
    assert code == 2
    assert "sampler 'nothing' is unknown" in json.loads(out)["error"]
    assert "sampler 'nothing' is unknown" in err


def test_folder_that_cannot_be_written_is_found_out_before_anything_is_loaded(
    generate, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr("genscale.pipelines.loading.load_pipeline", lambda *a, **k: pytest.fail("was loaded"))
    code, _, err = generate("a red star", "--out", tmp_path / "file/below")
    assert code == 2
    assert "cannot write to" in err
    assert (tmp_path / "file").read_text() == "kept"


def test_pipeline_without_a_scheduler(generate, tmp_path, monkeypatch):
    pipe = ZOO["stable_diffusion"].build()
    pipe.scheduler = None
    monkeypatch.setattr("genscale.pipelines.loading.load_pipeline", lambda *a, **k: pipe)
    code, _, err = generate("a red star", "--out", tmp_path / "run")
    assert code == 2
    assert "StableDiffusionPipeline has no scheduler" in err
    assert not (tmp_path / "run").exists()


def test_no_prompt(genscale):
    code, _, err = genscale("generate", "--candidates", 3)
    assert (code, "there is no prompt" in err) == (2, True)


def test_a_picture_from_elsewhere_cannot_switch_code_on(generate, genscale, tmp_path, monkeypatch):
    (tmp_path / "foreign_judges.py").write_text("def flat(media, prompts):\n    return [0.0] * len(media)\n")
    monkeypatch.chdir(tmp_path)
    words = (
        "a dog",
        "--candidates",
        1,
        "--verifier",
        "foreign_judges:flat",
        "--trust-remote-code",
        "--out",
        "run",
    )
    assert generate(*words)[0] == 0
    assert load_request(Path("run/best.png")).trust_remote_code is False
    code, _, err = genscale("generate", "--from", "run/best.png", "--out", "again")
    assert code == 2
    assert "name it again with --verifier" in err
    code, _, err = genscale("generate", "--from", "run/best.png", "--held-out", "shapes", "--out", "again")
    assert (code, "name it again with --verifier" in err) == (2, True)
    words = ("--verifier", "compressibility", "--dtype", "float32", "--out", "again")
    assert genscale("generate", "--from", "run/best.png", *words)[0] == 0


def test_a_verifier_that_steers_and_reports_is_warned_of(generate, tmp_path):
    words = ("--candidates", 1, "--held-out", "compressibility", "--out", tmp_path / "run")
    code, _, err = generate("a dog", *words)
    assert code == 0
    assert "warning: 'compressibility' both steers and reports" in err


# ------------------------------------------------------------------------------------------------- listings


def test_the_base_is_shown_beside_a_search_that_gave_it_up(genscale, tmp_path):
    """Particles leave the pipeline's own path: its image is made apart, and booked apart."""
    words = ("a red star", "--steps", "5", "--seed", "4", "--json")
    options = ("--sampler", "smc", "--particles", "3", "--window", "0.2,0.6", "--kernel", "ddim(0.7)")
    code, out, err = genscale("generate", *words, *options, "--out", str(tmp_path / "smc"))
    assert code == 0, err
    record = json.loads(out)
    assert record["base"]["candidate"] == 0
    assert record["ledger_of_base"]["evaluations"] == 10
    assert sum(record["prompts"][0]["population"]["weights"].values()) == pytest.approx(1, abs=1e-5)
    one = ("--sampler", "best_of_n", "--candidates", "1")
    assert genscale("generate", *words, *one, "--out", str(tmp_path / "one"))[0] == 0
    base, own = (Image.open(tmp_path / name) for name in ("smc/base.png", "one/best.png"))
    assert base.tobytes() == own.tobytes()


def test_branches_of_an_ode_are_refused(genscale, tmp_path):
    code, _, err = genscale(
        "generate", "x", "--sampler", "smc", "--kernel", "ode", "--out", str(tmp_path / "r")
    )
    assert code == 2
    assert "kernel='ddim(0.5)'" in err
    assert not (tmp_path / "r").exists()


def test_listings(genscale):
    code, out, _ = genscale("samplers", "--json")
    samplers = {s["name"]: s for s in json.loads(out)}
    assert code == 0
    assert samplers["zero_order"]["options"]["neighbours"]["default"] == 4
    assert all(s["about"] and s["cost"] and s["paper"] for s in samplers.values())
    assert {v["name"] for v in json.loads(genscale("verifiers", "--json")[1])} >= {"clip", "shapes_clip"}
    assert [m["name"] for m in json.loads(genscale("models", "--json")[1])] == list(EMBEDDED)
    for words in (["samplers"], ["verifiers"], ["models"], ["samplers", "best_of_n"], ["verifiers", "clip"]):
        code, out, _ = genscale(*words)
        assert code == 0
        assert words[-1].rstrip("s") in out or "best_of_n" in out or "clip" in out
    assert "did you mean 'zero_order'" in genscale("samplers", "zero_oder")[2]


def test_version_help_and_a_wrong_command(genscale):
    assert genscale("--version")[1].startswith("genscale ")
    for words in ([], ["--help"], ["generate"], ["generate", "--help"]):
        code, out, _ = genscale(*words)
        assert code == 0
        assert "Usage" in out
    code, _, err = genscale("generat")
    assert (code, "generate" in err) == (2, True)


def test_help_is_light():
    code = (
        "import sys, genscale.cli.app\n"
        "heavy = {'diffusers', 'transformers', 'open_clip', 'gradio', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------------------------- small readers


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (int, "1_000", 1000),
        (int | None, "none", None),
        (float, "-1.5e-3", -0.0015),
        (bool, "off", False),
        (tuple[float, ...], "0.3, 0.6", (0.3, 0.6)),
        (tuple[float, ...], "", ()),
        (str | None, "4", "4"),
        (int | str, "4", 4),
        (dict, '{"a": 1}', {"a": 1}),
    ],
)
def test_values_take_the_type_of_their_field(hint, text, value):
    assert sampler_options.convert(text, hint) == value


@pytest.mark.parametrize(
    ("hint", "text"), [(int, "1.5"), (int, "x"), (bool, "2"), (float, "a"), (int | None, "-")]
)
def test_values_of_another_type_are_refused(hint, text):
    with pytest.raises((ValueError, TypeError)):
        sampler_options.convert(text, hint)


def test_words_are_prompts_or_options_of_the_sampler():
    fields = {"count": int, "fast": bool, "early_stop": float}
    words = ["a dog", "--count=3", "--early-stop", "-0.5", "--no-fast", "- a list", "a cat"]
    prompts, values = sampler_options.split(words, fields, [])
    assert prompts == ["a dog", "- a list", "a cat"]
    assert values == {"count": "3", "early_stop": "-0.5", "fast": "false"}
    assert sampler_options.split(["--fast", "a dog"], fields, []) == (["a dog"], {"fast": "true"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\ufeffa star\n# no\n\n a ring \n"),
        ("p.jsonl", '{"prompt": "a star"}\n\n{"prompt": "a ring", "tag": 1}\n'),
        ("p.json", '["a star", {"prompt": "a ring"}]'),
        ("p.json", '{"prompts": ["a star", "a ring"]}'),
        ("p.csv", 'No.,Prompts\n1,a star\n2,"a ring"\n'),
        ("p.tsv", "prompt\tn\na star\t1\na ring\t2\n"),
    ],
)
def test_prompt_files(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / name) == ["a star", "a ring"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", ""),
        ("p.json", ""),
        ("p.json", "[1]"),
        ("p.jsonl", "{"),
        ("p.csv", "name\nx\n"),
        ("p.csv", ""),
    ],
)
def test_prompt_files_without_prompts(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=r"prompt file '.*p\."):
        read_prompts(tmp_path / name)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        read_prompts(tmp_path / name)


class Picky:
    """Gives no number for cats."""

    def __call__(self, media, prompts):
        return [float("nan") if "cat" in prompt else 1.0 for prompt in prompts]


def test_what_the_other_prompts_found_is_written(plug_in, genscale, tiny, tmp_path):
    plug_in("picky", Picky)
    listed = tmp_path / "prompts.txt"
    listed.write_text("a cat\na dog\n")
    options = ("--model", tiny, "--verifier", "picky", "--steps", STEPS, "--size", "16x16", "--seed", 4)
    out = tmp_path / "run"
    code, printed, err = genscale("generate", "--prompts", listed, *options, "--candidates", 2, "--out", out)
    assert code == 2
    assert "all 2 candidates of 'a cat' failed: the verifier picky gave NaN (2 times)" in err
    assert "2 candidates dropped: the verifier picky gave NaN (2 times)" in printed
    cat, dog = record(out)["prompts"]
    assert (cat["best"], cat["finished"], len(cat["dropped"])) == (None, 0, 2)
    assert (dog["finished"], dog["dropped"]) == (2, [])
    assert not list(out.glob("000-*"))
    assert (out / "001-best.png").is_file()
    shown = genscale("show", out)
    assert shown[0] == 0
    assert "1 prompt" in shown[1] or "prompts have no finished candidate" in shown[1]
