"""Searches that were made in Python: saved, shown, scored again, replayed and read back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import genscale as library
from genscale.errors import UsageError
from genscale.pipelines import describe_search
from genscale.plugins import registry
from genscale.report import contact_sheet
from genscale.runs.read_request import load_folder, load_request

PROMPTS = ["a red star", "a blue ring"]
CALL = {"num_inference_steps": 3, "guidance_scale": 3.0}


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe():
    found = library.load_pipeline("shapes-flow", device="cpu")
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def result(pipe):
    scaled = library.scale(pipe, "best_of_n", "shapes_clip", held_out="shapes", candidates=4, keep=3)
    return scaled(PROMPTS, generator=seeded(), **CALL).search


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    return result.save(tmp_path_factory.mktemp("saved") / "new/run")


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def record(folder):
    return json.loads((Path(folder) / "run.json").read_text())


# ---------------------------------------------------------------- what is written


def test_it_writes_what_the_command_line_writes(saved, genscale, tmp_path):
    words = (
        "--candidates",
        4,
        "--steps",
        3,
        "--guidance",
        3.0,
        "--seed",
        3,
        "--out",
        tmp_path / "by-command",
    )
    assert genscale("generate", *PROMPTS, *words)[0] == 0
    mine, theirs = record(saved), record(tmp_path / "by-command")
    assert set(mine) == set(theirs)
    names = {p.name for p in saved.iterdir()}
    assert names == {p.name for p in (tmp_path / "by-command").iterdir()}
    for a, b in zip(mine["prompts"], theirs["prompts"], strict=True):
        assert set(a) == set(b)
        assert a["files"] == b["files"]
    # Candidate 0 of the second prompt differs: here one generator draws for both, there each prompt has its own.
    a, b = mine["prompts"][0], theirs["prompts"][0]
    assert a["best"]["candidate"] == b["best"]["candidate"]
    assert a["best"]["search"] == pytest.approx(b["best"]["search"])
    for name in ("000-best.png", "000-base.png"):
        assert np.array_equal(Image.open(saved / name), Image.open(tmp_path / "by-command" / name))
    with Image.open(saved / "000-best.png") as image:
        assert image.text["parameters"].startswith("a red star\nSteps: 3")
    assert load_request(saved / "000-best.png").as_dict() == load_folder(saved).as_dict()
    assert "missing" not in mine


@pytest.mark.parametrize("name", ["000-best.png", "001-base.png"])
def test_replay_gives_the_same_pixels(run, genscale, name):
    code, out, err = genscale("replay", run / name)
    assert code == 0, err
    assert "same" in out


def test_a_search_that_cannot_be_replayed_alone_is_searched_again(pipe, genscale, tmp_path):
    scaled = library.scale(pipe, "zero_order", "shapes_clip", budget="24nfe", neighbours=2)
    out = scaled("a red star", generator=seeded(), num_inference_steps=2, guidance_scale=3.0)
    out.search.save(tmp_path / "run")
    found = json.loads(genscale("replay", tmp_path / "run/best.png", "--json")[1])
    assert found["same"] is True


def test_show_and_rescore(run, result, genscale):
    shown = json.loads(genscale("show", run, "--json")[1])
    assert shown["finished"] is True
    assert [p["best"]["candidate"] for p in shown["prompts"]] == [
        result.ranking(i)[0].candidate.id for i in range(2)
    ]
    assert [(run / name).is_file() for name in shown["files"]] == [True] * 4
    code, out, err = genscale("rescore", run, "--verifier", "shapes_clip", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["candidates"], found["without_latents"]) == (6, 2)  # base and the best three
    for prompt in found["verifiers"][0]["prompts"]:
        for candidate in prompt["candidates"]:
            assert candidate["score"] == pytest.approx(candidate["searched"], abs=1e-5)


def test_resume_of_a_saved_run_changes_nothing(run, genscale):
    before = record(run)
    code, _, err = genscale("resume", run)
    assert code == 0, err
    assert [p["best"]["candidate"] for p in record(run)["prompts"]] == [
        p["best"]["candidate"] for p in before["prompts"]
    ]


# ---------------------------------------------------------------- read back


def test_a_loaded_result_equals_the_live_one(saved, result):
    loaded = library.load_result(saved)
    assert loaded.prompts == result.prompts
    assert loaded.seed == result.seed == 3
    assert loaded.stopped is None
    for i in range(2):
        assert loaded.summary(i) == result.summary(i)
        assert loaded.table(i) == result.table(i)
        assert loaded.curve(i) == result.curve(i)
        mine, theirs = loaded.ranking(i), result.ranking(i)
        assert [f.candidate for f in mine] == [e.candidate for e in theirs]
        assert [loaded.total(f) for f in mine] == [result.total(e) for e in theirs]
        assert loaded.base(i).candidate == result.base(i).candidate
    assert loaded.best.candidate == result.best.candidate
    assert torch.equal(loaded.best.latents(), result.best.x)
    assert loaded._repr_html_().count("<tr>") == result._repr_html_().count("<tr>") == 3
    titles = [[axes.get_title(loc="left") for axes in r.plot().axes] for r in (loaded, result)]
    assert titles[0] == titles[1] == ["shapes_clip", "shapes (held out)"]
    assert np.array_equal(loaded.media([loaded.best]), result.media([result.best]))
    assert np.array_equal(loaded.sheet(title="x"), result.sheet(title="x"))
    lost = loaded.ranking(0)[-1]
    assert lost.file is None
    with pytest.raises(UsageError, match=r"latents of candidate \d are not in"):
        loaded.media([lost])


def test_the_folder_of_a_command_is_loaded_too(genscale, tmp_path):
    words = ("--candidates", 3, "--steps", 2, "--seed", 1, "--out", tmp_path / "run")
    assert genscale("generate", "a red star", *words)[0] == 0
    loaded = library.load_result(tmp_path / "run")
    told = record(tmp_path / "run")
    assert loaded.best.candidate.id == told["best"]["candidate"]
    assert [p["candidate"] for p in loaded.curve()] == [p["candidate"] for p in told["prompts"][0]["curve"]]
    with pytest.raises(UsageError, match="is not a folder"):
        library.load_result(tmp_path / "gone")


# ---------------------------------------------------------------- the folder


def test_the_folder_of_the_archive_will_do(pipe, tmp_path):
    scaled = library.scale(pipe, "best_of_n", "shapes_clip", candidates=4, out=tmp_path / "run")
    result = scaled("a red star", generator=seeded(), **CALL).search
    lines = (tmp_path / "run/archive.jsonl").read_text()
    result.save(tmp_path / "run")
    assert (tmp_path / "run/archive.jsonl").read_text() == lines
    loaded = library.load_result(tmp_path / "run")
    assert all(f.file is not None for f in loaded.ranking())
    result.save(tmp_path / "run")  # the same once more
    other = scaled_search(pipe, "a blue ring")
    with pytest.raises(UsageError, match="holds another run"):
        other.save(tmp_path / "run")
    assert library.load_result(tmp_path / "run").prompts == ("a red star",)


def scaled_search(pipe, prompt, **more):
    given = {"verifier": "shapes_clip", "candidates": 2} | more
    return library.scale(pipe, "best_of_n", **given).search(prompt, generator=seeded(), **CALL)


def test_another_run_is_not_written_over(saved, pipe, genscale, tmp_path):
    before = record(saved)
    with pytest.raises(UsageError, match="holds another run"):
        scaled_search(pipe, "a red star").save(saved)
    assert record(saved) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        scaled_search(pipe, "a red star").save(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot write to"):
        scaled_search(pipe, "a red star").save(tmp_path / "file/below")


@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_nothing_half_written(result, tmp_path, monkeypatch, there):
    target = tmp_path / "deep/run"
    if there:
        target.mkdir(parents=True)
        (target / "notes.txt").write_text("mine")

    def broken(*parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(contact_sheet, "sheet", broken)
    with pytest.raises(UsageError, match="No space left on device"):
        result.save(target)
    left = [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))]
    assert left == (["deep", "deep/run", "deep/run/notes.txt"] if there else [])


# ---------------------------------------------------------------- what cannot be known


def brightness(media, prompts):
    return [float(np.asarray(image).mean()) for image in media]


def test_a_verifier_of_ones_own_is_named_as_missing(pipe, genscale, tmp_path):
    scaled_search(pipe, "a red star", verifier=brightness).save(tmp_path / "run")
    assert record(tmp_path / "run")["missing"] == {
        "search": ["the verifier 'brightness', which is an object of Python"]
    }
    for name in ("replay", "resume"):
        code, _, err = genscale(name, tmp_path / ("run/best.png" if name == "replay" else "run"))
        assert (code, err.count("\n")) == (2, 1)
        assert "the verifier 'brightness', which is an object of Python" in err
    assert genscale("show", tmp_path / "run")[0] == 0
    assert genscale("rescore", tmp_path / "run", "--verifier", "shapes")[0] == 0
    assert library.load_result(tmp_path / "run").summary().searched == "brightness"


def test_a_model_that_was_built_in_python_cannot_decode(pipe, genscale, tmp_path):
    built = type(pipe)(**pipe.components)
    built.set_progress_bar_config(disable=True)
    built.register_to_config(_name_or_path="")
    result = scaled_search(built, "a red star")
    result.save(tmp_path / "run")
    [missing] = record(tmp_path / "run")["missing"]["call"]
    assert "that was built in Python" in missing
    assert genscale("show", tmp_path / "run")[0] == 0
    code, _, err = genscale("rescore", tmp_path / "run", "--verifier", "shapes")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be decoded" in err
    loaded = library.load_result(tmp_path / "run", pipe=built)
    assert np.array_equal(loaded.media([loaded.best]), result.media([result.best]))
    with pytest.raises(UsageError, match="cannot be decoded"):
        library.load_result(tmp_path / "run").media([loaded.best])


def test_a_generator_that_has_drawn_before_is_missing(pipe, tmp_path):
    used = seeded()
    torch.rand(2, generator=used)
    search = library.scale(pipe, "best_of_n", "shapes_clip", candidates=1).search
    for n, generator in enumerate((used, None, [seeded(), seeded(4)])):
        search("a red star" if n < 2 else PROMPTS, generator=generator, **CALL).save(tmp_path / str(n))
        assert "torch.Generator" in record(tmp_path / str(n))["missing"]["search"][0]


def test_what_the_request_holds(pipe, tmp_path):
    scaled = library.scale(
        pipe, "best_of_n", ("shapes_clip", 2.0), select="shapes", stop="patience:8", budget="24nfe", wave=2,
        batch_size=2, guide="cfg(3, 0.1, 0.8)",
    )  # fmt: skip
    given = {"negative_prompt": "bad", "height": 64, "width": 64, "num_images_per_prompt": 2}
    scaled("a red star", generator=seeded(5), **CALL, **given).search.save(tmp_path / "run")
    request = load_folder(tmp_path / "run")
    assert (request.model, request.seed, request.steps, request.guidance) == ("shapes-flow", 5, 3, 3.0)
    assert (request.verifiers, request.select, request.held_out) == (
        ("shapes_clip:2.0",),
        ("shapes",),
        ("none",),
    )
    assert (request.stop, request.budget, request.guide) == ("patience:8", "24nfe", "cfg(3, 0.1, 0.8)")
    assert (request.negative, request.width, request.images, request.batch_size) == ("bad", 64, 2, 2)
    assert request.sampler_fields == {"wave": 2}
    assert (tmp_path / "run/best-2.png").is_file()
    assert "missing" not in record(tmp_path / "run")


def test_a_replaced_scheduler_is_missing(pipe, tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    own = pipe.scheduler
    try:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(own.config, shift=7.0)
        scaled_search(pipe, "a red star").save(tmp_path / "run")
    finally:
        pipe.scheduler = own
    assert record(tmp_path / "run")["missing"]["search"] == ["its scheduler, which is not the model's own"]


def test_a_result_of_no_pipeline_cannot_be_saved(tmp_path):
    from genscale.samplers.best_of_n import BestOfN
    from genscale.toy import analytic

    model = analytic.Mixture(torch.tensor([[0.9, 0.1, 0.1]]), 0.05)
    result = analytic.search(BestOfN(), model, analytic.coordinate(0), budget="16nfe")
    with pytest.raises(UsageError, match="can be saved"):
        result.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_names_of_registered_plugins():
    from genscale.samplers.best_of_n import BestOfN

    assert registry.registered_name("sampler", BestOfN) == "best_of_n"
    assert describe_search.changed_options(BestOfN(candidates=3)) == {"candidates": 3}
    assert registry.registered_name("verifier", type(brightness)) is None


def test_loaded_and_live_results_compare(saved, result):
    both = library.compare({"live": result, "loaded": library.load_result(saved)})
    live, loaded = both["live"], both["loaded"]
    assert (live.searched.mean, live.nfe) == (loaded.searched.mean, loaded.nfe)
    assert loaded.searched.gain.mean == 0
    assert loaded.held_out["shapes"].gain.mean == 0
