"""Folders and files from somebody else: they run no code, write nowhere else, and certify nothing that was not made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genscale.cli.app import main
from genscale.errors import UsageError
from genscale.runs.load_result import load_result
from tests.quick import quick
from tests.test_damaged_folders import forged

MODULE = "open('ran', 'w').close()\ndef judge(media, prompts):\n    return [0.5] * len(prompts)\n"
SETTINGS = ("--candidates", "2", "--steps", "1", "--seed", "3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert main(["generate", "a red star", *SETTINGS, "--out", str(folder / "run")]) == 0
    words = (
        "--sampler",
        "best_of_n",
        "--sampler",
        "zero_order(neighbours=1)",
        "--budget",
        "4nfe",
        "--steps",
        "1",
    )
    assert main(["compare", "a red star", *words, "--seed", "3", "--out", str(folder / "both")]) == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the runs, and a module of somebody else."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "elsewhere_v.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_entry(path: Path, **fields: Any) -> None:
    """Of a comparison: in the request of its second entry, or the entry itself."""
    data = json.loads(path.read_text())
    entry = data["entries"][1]
    for name, value in fields.items():
        (entry if name in entry else entry["request"])[name] = value
    path.write_text(json.dumps(data))


def refused(genscale: Any, *words: Any) -> str:
    code, out, err = genscale(*words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not Path("ran").exists()
    return str(err)


# ---------------------------------------------------------------- code


@pytest.mark.parametrize("role", quick(["verifiers", "select", "held_out"], ["verifiers"]))
def test_a_folder_imports_no_module(here: Path, genscale: Any, role: str) -> None:
    change(here / "run/request.json", **{role: ["elsewhere_v:judge"]})
    change_entry(here / "both/compare.json", **{role: ["elsewhere_v:judge"]})
    for command in (("resume", "run"), ("resume", "both")):
        assert "its verifier elsewhere_v:judge: read that code first, then add --trust-folder" in refused(
            genscale, *command
        )
    for command in (("show", "run"), ("tree", "run"), ("rescore", "run", "--verifier", "shapes")):
        assert genscale(*command)[0] == 0
    assert not Path("ran").exists()


@pytest.mark.parametrize("role", quick(["verifiers", "select", "held_out"], ["verifiers"]))
def test_a_folder_sends_nothing_to_a_server(
    here: Path, genscale: Any, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.chat_service import serving

    monkeypatch.setenv("SOME_KEY", "secret")
    with serving() as service:
        for spec in (
            f"vlm_judge:{service.url},key_from=SOME_KEY",
            f"question_list(questions=model,url={service.url}):2",
            f"frames(verifier=vlm_judge:{service.url})",
        ):
            change(here / "run/request.json", **{role: [spec]})
            change_entry(here / "both/compare.json", **{role: [spec]})
            for folder in ("run", "both"):
                assert "or send images to a server" in refused(genscale, "resume", folder)
    assert service.requests == 0
    assert service.headers == []


def test_with_the_flag_it_does(here: Path, genscale: Any) -> None:
    shutil.rmtree("run/latents")
    Path("run/archive.jsonl").unlink()
    change(here / "run/request.json", verifiers=["elsewhere_v:judge"])
    code, _, err = genscale("resume", "run", "--trust-folder")
    assert code == 0, err
    assert Path("ran").exists()


def test_a_folder_switches_no_remote_code_on(here: Path, genscale: Any) -> None:
    change(here / "run/request.json", trust_remote_code=True)
    change_entry(here / "both/compare.json", trust_remote_code=True)
    for path in (here / "run").glob("*contact*"):
        path.unlink()  # so that `show` must decode
    for command in (
        ("resume", "run"), ("resume", "both"), ("show", "run"), ("rescore", "run", "--verifier", "shapes"),
    ):  # fmt: skip
        assert "Python code that comes with its model" in refused(genscale, *command)
    with pytest.raises(UsageError, match="trust=True in Python"):
        load_result("run").sheet()
    assert load_result("run", trust=True).sheet()


def test_a_model_folder_with_code_of_its_own_runs_none(here: Path, genscale: Any) -> None:
    from genscale.pipelines.loading import folder_of

    shutil.copytree(folder_of("shapes-flow"), here / "model")
    index = json.loads((here / "model/model_index.json").read_text())
    index["_class_name"] = ["pipeline", index["_class_name"]]
    (here / "model/model_index.json").write_text(json.dumps(index))
    (here / "model/pipeline.py").write_text("open('ran', 'w').close()\n")
    change(here / "run/request.json", model=str(here / "model"))
    for command in (("resume", "run"), ("rescore", "run", "--verifier", "shapes")):
        refused(genscale, *command)


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    "folder", ["../escaped", "a/b", "..", ".", "", "C:x", "a\\b", "/absolute", "x\0y", 3, ["x"]]
)
def test_a_comparison_writes_into_its_own_folder(here: Path, genscale: Any, folder: Any) -> None:
    folder = str(here / "absolute") if folder == "/absolute" else folder
    change_entry(here / "both/compare.json", folder=folder)
    before = sorted(here.rglob("*"))
    assert "compare.json' cannot be read" in refused(genscale, "resume", "both")
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["archive.jsonl", "latents", ".lock"])
def test_links_out_of_a_folder_are_not_followed(here: Path, genscale: Any, name: str) -> None:
    outside = here / "outside"
    shutil.rmtree(here / "run/latents")
    (here / "run/archive.jsonl").unlink()
    outside.mkdir() if name == "latents" else outside.write_text("mine")
    (here / "run" / name).symlink_to(outside)
    refused(genscale, "resume", "run")
    assert list(outside.iterdir()) == [] if name == "latents" else outside.read_text() == "mine"


def test_a_linked_entry_is_not_followed(here: Path, genscale: Any) -> None:
    entry = here / "both" / json.loads((here / "both/compare.json").read_text())["entries"][0]["folder"]
    shutil.rmtree(entry)
    (here / "outside").mkdir()
    entry.symlink_to(here / "outside")
    assert "is a link to another place" in refused(genscale, "resume", "both")
    assert list((here / "outside").iterdir()) == []


@pytest.mark.parametrize(
    "file", ["../outside.safetensors", "latents/../../outside.safetensors", "/etc/passwd"]
)
def test_an_archive_reads_its_own_latents(here: Path, genscale: Any, file: str) -> None:
    path = here / "run/archive.jsonl"
    records = [
        {k: v for k, v in json.loads(line).items() if k != "sum"} for line in path.read_text().splitlines()
    ]
    next(r for r in records if "file" in r)["file"] = file
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    assert "['file'] cannot be" in refused(genscale, "rescore", "run", "--verifier", "shapes")


# ---------------------------------------------------------------- pictures that certify themselves


@pytest.mark.parametrize(
    "where", ["absolute", "upwards", "own name", "contact.png", "preview.png", "run.json"]
)
def test_a_forged_picture_is_never_the_same(here: Path, genscale: Any, where: str) -> None:
    """Other pixels, with the metadata of a true image: without its candidate, the whole search is repeated."""
    path = here / "forged.png"
    with Image.open("run/best.png") as image:
        data = json.loads(image.text["genscale"])  # type: ignore[attr-defined]
    del data["shows"]
    data["file"] = {
        "absolute": str(path), "upwards": "../" * 20 + str(path).lstrip("/"), "own name": "forged.png",
    }.get(where, where)  # fmt: skip
    forged(Image.new("RGB", (64, 64), "blue"), path, json.dumps(data))
    code, out, err = genscale("replay", path)
    assert code == 2, (out, err)
    assert not (here / "forged-replay.png").exists()


def test_another_picture_under_the_record_of_a_run_differs(here: Path, genscale: Any) -> None:
    for name in ("best", "base"):
        with Image.open(f"run/{name}.png") as image:
            text = image.text["genscale"]  # type: ignore[attr-defined]
        forged(Image.new("RGB", (64, 64), "blue"), here / "forged.png", text)
        assert genscale("replay", "forged.png")[0] == 3


def test_a_replay_tells_of_no_temporary_folder(
    here: Path, genscale: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its search fails at the end; nobody can go on with it."""
    from genscale.report.output_folder import OutputFolder

    with Image.open("run/best.png") as image:
        data = json.loads(image.text["genscale"])  # type: ignore[attr-defined]
    del data["shows"]
    forged(Image.new("RGB", (64, 64), "blue"), here / "forged.png", json.dumps(data))

    def full(self: Any, name: str, data: Any) -> Any:
        if name == "run.json":
            raise UsageError("cannot write: no space.")
        return write(self, name, data)

    write = OutputFolder.write_json
    monkeypatch.setattr(OutputFolder, "write_json", full)
    code, _, err = genscale("replay", "forged.png")
    assert code == 2
    assert "genscale resume" not in err


# ---------------------------------------------------------------- requests that were edited


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("guidance", 9.0, "argument guidance_scale"),
        ("negative", "a blue ring", "argument negative_prompt"),
        ("dtype", "bfloat16", "weights of the"),
        ("prompts", ["a blue ring"], "prompts"),
        ("pipeline_args", {"skip_layer_guidance_scale": 2.0}, "argument skip_layer_guidance_scale"),
    ],
)
def test_an_edited_request_does_not_go_on_with_other_settings(
    here: Path, genscale: Any, field: str, value: Any, told: str
) -> None:
    change(here / "run/request.json", **{field: value})
    before = (here / "run/archive.jsonl").read_bytes()
    err = refused(genscale, "resume", "run")
    assert "holds another run" in err
    assert told in err
    assert (here / "run/archive.jsonl").read_bytes() == before


def test_ctrl_c_while_results_are_written(here: Path, genscale: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from genscale.runs import generate

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generate, "write_run_files", stop)
        code, _, err = genscale("generate", "a red star", *SETTINGS, "--out", "new")
    assert code == 130
    assert "interrupted while its results were written; what was done is kept: genscale resume new" in err
    assert genscale("resume", "new")[0] == 0
