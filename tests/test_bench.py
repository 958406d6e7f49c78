"""`genscale bench` and `--layout`: files where the scorers of benchmarks look for them, listed by hand from their
documentation; shards, resuming, and the summary."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genscale.bench import run_bench
from genscale.bench.layouts import LAYOUTS, layout_of
from genscale.bench.prompt_sets import BenchPrompt, read_set
from genscale.bench.run_bench import Bench, bench
from genscale.bench.shard import Shard
from genscale.bench.summary import ALL, ResultLine, summarised
from genscale.bench.trees import tiled, write_listing, write_prompt
from genscale.errors import UsageError
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.verifiers.object_metadata import metadata_of, requirement_of
from genscale.verifiers.object_prompts import read_prompt

Command = Callable[..., tuple[int, str, str]]
QUIET = Display(quiet=True)

GENEVAL = """{"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a red star"}
{"tag": "counting", "include": [{"class": "ring", "count": 2}], "exclude": [{"class": "ring", "count": 3}], "prompt": "two blue rings"}
{"tag": "single_object", "include": [{"class": "ring", "count": 1}], "prompt": "a blue ring"}
"""  # noqa: E501


def listing(tree: Path) -> str:
    """The files under a folder, a line each, as `find . -type f | sort` prints them."""
    files = (p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file())
    return "".join(f"./{name}\n" for name in sorted(files))


def furnish(folder: Path) -> None:
    """Prompt files of every benchmark, in the form that each has, with words of our own."""
    (folder / "geneval.jsonl").write_text(GENEVAL)
    (folder / "comp").mkdir()
    (folder / "comp" / "color_val.txt").write_text("a red star\tstar\na blue ring.\n")
    (folder / "comp" / "spatial_val.txt").write_text("a red star left of a blue ring\n")
    (folder / "dpg").mkdir()
    for name, prompt in {"2": "a red star,\nbig", "10": "a blue ring", "drawn9": "two stars"}.items():
        (folder / "dpg" / f"{name}.txt").write_text(prompt)
    (folder / "dpg.csv").write_text(
        "item_id,text,proposition_id,category_broad\n2,a red star,1,entity\n2,a red star,2,global\n"
        "10,a blue ring,1,entity\n"
    )
    (folder / "draw.csv").write_text('Prompts,Category\na red star,Colors\n"one, two rings",Counting\n')
    (folder / "parti.tsv").write_text(
        "Prompt\tCategory\tChallenge\tNote\na red star\tArtifacts\tBasic\tshort\n"
    )
    (folder / "vbench.json").write_text(
        json.dumps(
            [
                {"prompt_en": "a red circle", "dimension": ["color", "overall_consistency"]},
                {"prompt_en": "a still ring", "dimension": ["temporal_flickering"]},
            ]
        )
    )
    (folder / "dimensions").mkdir()
    (folder / "dimensions" / "color.txt").write_text("a red circle\na blue ring\n")
    (folder / "dimensions" / "scene.txt").write_text("a red circle\n")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    furnish(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- prompts


def test_prompts_keep_what_the_files_say(here: Path) -> None:
    found = read_set("geneval", here / "geneval.jsonl")
    assert [p.prompt for p in found] == ["a red star", "two blue rings", "a blue ring"]
    assert [p.categories for p in found] == [("single_object",), ("counting",), ("single_object",)]
    assert [p.record for p in found] == GENEVAL.splitlines()
    comp = read_set("t2i-compbench", here / "comp")
    assert [(p.prompt, p.index, p.place, p.folder) for p in comp] == [
        ("a red star", 0, 0, "color"), ("a blue ring.", 1, 1, "color"),
        ("a red star left of a blue ring", 2, 0, "spatial"),
    ]  # fmt: skip
    assert [p.folder for p in read_set("t2i-compbench", here / "comp" / "color_val.txt")] == ["", ""]
    assert [(p.id, p.prompt) for p in read_set("dpg", here / "dpg")] == [
        ("2", "a red star, big"), ("10", "a blue ring"), ("drawn9", "two stars"),
    ]  # fmt: skip
    assert [(p.id, p.categories) for p in read_set("dpg", here / "dpg.csv")] == [
        ("2", ("entity", "global")), ("10", ("entity",)),
    ]  # fmt: skip
    assert [(p.prompt, p.categories) for p in read_set("drawbench", here / "draw.csv")] == [
        ("a red star", ("Colors",)), ("one, two rings", ("Counting",)),
    ]  # fmt: skip
    assert read_set("partiprompts", here / "parti.tsv")[0].categories == ("Artifacts", "challenge: Basic")
    assert [(p.prompt, p.categories, p.samples) for p in read_set("vbench", here / "vbench.json")] == [
        ("a red circle", ("color", "overall_consistency"), None), ("a still ring", ("temporal_flickering",), 25),
    ]  # fmt: skip
    assert [(p.prompt, p.categories) for p in read_set("vbench", here / "dimensions")] == [
        ("a red circle", ("color", "scene")), ("a blue ring", ("color",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "ending", "why"),
    [
        ("geneval", '{"prompt": "x"}', "jsonl", "no prompt or no tag"),
        ("geneval", "x", "jsonl", "is not JSON"),
        ("geneval", "[]", "jsonl", "no JSON object"),
        ("geneval", "", "jsonl", "holds no prompt"),
        ("drawbench", "a,b\n1,2\n", "csv", "no column Prompts"),
        ("vbench", '[{"prompt": "x"}]', "json", "no prompt_en"),
        ("t2i-compbench", "\n \n", "txt", "holds no prompt"),
    ],
)
def test_files_that_are_no_prompts_are_refused(
    name: str, text: str, ending: str, why: str, tmp_path: Path
) -> None:
    file = tmp_path / f"p.{ending}"
    file.write_text(text)
    with pytest.raises(UsageError, match=why):
        read_set(name, file)
    with pytest.raises(UsageError):
        read_set(name, tmp_path / f"none.{ending}")


# ---------------------------------------------------------------- layouts

LISTINGS = {
    # README of djghosh13/geneval, "Image generation": four images, four digits
    "geneval": """
./00000/grid.png
./00000/metadata.jsonl
./00000/samples/0000.png
./00000/samples/0001.png
./00000/samples/0002.png
./00000/samples/0003.png
./00001/grid.png
./00001/metadata.jsonl
./00001/samples/0000.png
./00001/samples/0001.png
./00001/samples/0002.png
./00001/samples/0003.png
./00002/grid.png
./00002/metadata.jsonl
./00002/samples/0000.png
./00002/samples/0001.png
./00002/samples/0002.png
./00002/samples/0003.png
""",
    # Readme of Karine-Huang/T2I-CompBench: numbered through all images of a category
    "t2i-compbench": """
./color/samples/a blue ring._000002.png
./color/samples/a blue ring._000003.png
./color/samples/a red star_000000.png
./color/samples/a red star_000001.png
./spatial/samples/a red star left of a blue ring_000000.png
./spatial/samples/a red star left of a blue ring_000001.png
""",
    # README of TencentQQGYLab/ELLA: the image's name is the prompt file's
    "dpg": """
./10.png
./2.png
./drawn9.png
""",
    "drawbench": """
./00000-0.png
./00000-1.png
./00001-0.png
./00001-1.png
./metadata.jsonl
""",
    "partiprompts": """
./00000-0.png
./00000-1.png
./metadata.jsonl
""",
    # prompts/README.md of Vchitect/VBench
    "vbench": """
./a blue ring-0.mp4
./a blue ring-1.mp4
./a blue ring-2.mp4
./a blue ring-3.mp4
./a blue ring-4.mp4
./a red circle-0.mp4
./a red circle-1.mp4
./a red circle-2.mp4
./a red circle-3.mp4
./a red circle-4.mp4
""",
}
SOURCES = {
    "geneval": ("geneval.jsonl", None), "t2i-compbench": ("comp", 2), "dpg": ("dpg", None),
    "drawbench": ("draw.csv", 2), "partiprompts": ("parti.tsv", 2), "vbench": ("dimensions", None),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_are_where_the_scorer_looks(name: str, here: Path) -> None:
    source, samples = SOURCES[name]
    prompts, layout = read_set(name, here / source), layout_of(name)
    layout.check(prompts, samples)
    made = here / f"sample.{layout.kind}"
    Image.new("RGB", (8, 8), "red").save(made, format="PNG")
    for prompt in prompts:
        count = layout.count(prompt, samples)
        write_prompt(here / "tree", layout, prompt, dict.fromkeys(range(count), made), samples)
    write_listing(here / "tree", layout, prompts, samples)
    assert listing(here / "tree") == LISTINGS[name].lstrip()
    told = [path for prompt in prompts for path in layout.paths(prompt, samples)]
    told += [] if layout.listing is None else [layout.listing]
    assert "".join(f"./{path}\n" for path in sorted(told)) == listing(here / "tree")


def test_metadata_is_the_line_of_the_file(here: Path) -> None:
    layout = layout_of("geneval")
    for n, prompt in enumerate(read_set("geneval", here / "geneval.jsonl")):
        write_prompt(here / "tree", layout, prompt, {}, None)
        assert (here / "tree" / f"{n:05d}" / "metadata.jsonl").read_text() == GENEVAL.splitlines()[n]
    lines = layout_of("partiprompts").lines(read_set("partiprompts", here / "parti.tsv"), 1).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file_name": "00000-0.png", "prompt": "a red star", "Prompt": "a red star", "Category": "Artifacts",
         "Challenge": "Basic", "Note": "short"}
    ]  # fmt: skip


def test_vbench_wants_25_videos_for_flickering(here: Path) -> None:
    prompts, layout = read_set("vbench", here / "vbench.json"), layout_of("vbench")
    assert [len(layout.paths(p)) for p in prompts] == [5, 25]
    assert [len(layout.paths(p, 2)) for p in prompts] == [2, 2]


def test_the_grid_of_dpg_is_cut_apart_by_its_scorer(tmp_path: Path) -> None:
    files, side = {}, 8
    for n, colour in enumerate(("red", "lime", "blue", "white")):
        files[n] = tmp_path / f"{n}.png"
        Image.new("RGB", (side, side), colour).save(files[n])
    write_prompt(tmp_path / "tree", layout_of("dpg"), BenchPrompt("x", id="7"), files, None)
    grid = Image.open(tmp_path / "tree" / "7.png")
    assert grid.size == (2 * side, 2 * side)
    crops = [(0, 0), (side, 0), (0, side), (side, side)]  # of compute_dpg_bench.py, in its order
    for n, (x, y) in enumerate(crops):
        assert grid.crop((x, y, x + side, y + side)).tobytes() == Image.open(files[n]).tobytes()
    write_prompt(tmp_path / "one", layout_of("dpg"), BenchPrompt("x", id="7"), {0: files[0]}, 1)
    assert Image.open(tmp_path / "one" / "7.png").size == (side, side)
    lost = dict(files)
    del lost[1]
    write_prompt(tmp_path / "lost", layout_of("dpg"), BenchPrompt("x", id="7"), lost, None)
    assert Image.open(tmp_path / "lost" / "7.png").getpixel((side, 0)) == (0, 0, 0)
    Image.new("RGB", (side, 2 * side)).save(files[1])
    with pytest.raises(UsageError, match="several sizes"):
        tiled([Image.open(files[0]), Image.open(files[1])], 2)
    with pytest.raises(UsageError, match="into squares"):
        write_prompt(tmp_path / "wide", layout_of("dpg"), BenchPrompt("x", id="7"), {0: files[1]}, 1)


@pytest.mark.parametrize(
    ("name", "prompt", "samples", "why"),
    [
        ("vbench", BenchPrompt("a / b"), None, "no file can be named"),
        ("t2i-compbench", BenchPrompt("a_b"), None, "no file can be named"),
        ("dpg", BenchPrompt("x", id="a.b"), None, "no file can be named"),
        ("dpg", BenchPrompt("x", id=""), None, "no file can be named"),
        ("vbench", BenchPrompt("x" * 300), None, "is too long"),
        ("dpg", BenchPrompt("x", id="1"), 5, "has 1 to 4 samples"),
        ("geneval", BenchPrompt("x"), 0, "has 1 to 10000 samples"),
    ],
)  # fmt: skip
def test_what_has_no_place_in_a_layout_is_refused(
    name: str, prompt: BenchPrompt, samples: int | None, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        layout_of(name).check([prompt], samples)


def test_two_prompts_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="names two prompts alike"):
        layout_of("dpg").check([BenchPrompt("x", id="1"), BenchPrompt("y", id="1")], None)
    with pytest.raises(UsageError, match=r"benchmark 'genevall' is unknown \(did you mean 'geneval'"):
        layout_of("genevall")


def test_shards_are_the_whole_once() -> None:
    whole = list(range(11))
    parts = [Shard.parse(f"{k}/4").of(whole) for k in range(1, 5)]
    assert sorted(n for part in parts for n in part) == whole
    assert Shard.parse(None).of(whole) == whole
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/4"):
        with pytest.raises(UsageError, match="--shard"):
            Shard.parse(text)


def test_metadata_of_a_prompt_is_read_back() -> None:
    for prompt in ("two red clocks", "a dog right of a red kite", "a cat and a dog, no birds"):
        wanted = read_prompt(prompt)
        assert requirement_of(metadata_of(wanted, prompt), "it") == wanted


# ---------------------------------------------------------------- the summary


def line(index: int, category: str, base: float, best: float, sample: int = 0) -> ResultLine:
    def told(value: float) -> Any:
        return {"search": {"v": value}, "select": {}, "held_out": {"w": -value}}

    return {
        "index": index, "prompt": "p", "categories": [category], "sample": sample, "seed": sample, "nfe": 1,
        "base": told(base), "best": told(best),
    }  # fmt: skip


def test_prompts_are_the_unit_of_the_summary() -> None:
    lines = [
        line(0, "x", 0.0, 1.0),
        line(0, "x", 0.0, 0.0, 1),
        line(1, "x", 0.5, 0.5),
        line(2, "y", 0.0, 1.0),
    ]
    lines.append({**line(3, "y", 0.3, 0.3), "base": None})
    found = summarised(lines)
    rows = {row["category"]: row for row in found["categories"]}
    assert list(rows) == [ALL, "x", "y"]
    assert [row["prompts"] for row in rows.values()] == [4, 2, 2]
    first = {row: rows[row]["scores"][0] for row in rows}
    assert first["x"]["base"]["mean"] == pytest.approx(0.25)
    assert first["x"]["searched"]["mean"] == pytest.approx(0.5)
    assert first["x"]["gain"]["mean"] == pytest.approx(0.25)
    assert first["y"]["gain"]["n"] == 1  # one has no base
    assert first[ALL]["searched"]["mean"] == pytest.approx((0.5 + 0.5 + 1.0 + 0.3) / 4)
    assert rows["x"]["scores"][1]["role"] == "held_out"
    means = found["mean_of_categories"][0]
    assert means["searched"] == pytest.approx((0.5 + 0.65) / 2)
    assert summarised(lines[:3]).keys() == {"categories"}


# ---------------------------------------------------------------- whole runs

REQUEST = Request(sampler="best_of_n", sampler_fields={"candidates": 2}, steps=1, seed=5)


def asked(folder: Path, **more: Any) -> Bench:
    prompts = tuple(read_set("geneval", folder / "geneval.jsonl"))
    return Bench(**({"name": "geneval", "prompts": prompts[:2], "request": REQUEST, "samples": 2} | more))


def contents(tree: Path) -> dict[str, bytes]:
    return {p.relative_to(tree).as_posix(): p.read_bytes() for p in tree.rglob("*.*") if p.is_file()}


def pixels(tree: Path) -> dict[str, bytes]:
    return {p.relative_to(tree).as_posix(): Image.open(p).tobytes() for p in tree.rglob("*.png")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run that nothing interrupts, and what it says."""
    folder = tmp_path_factory.mktemp("whole")
    furnish(folder)
    return folder, bench(asked(folder), folder / "out", QUIET)


def test_a_benchmark_is_laid_out_twice_and_summed_up(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, found = whole
    assert (found["samples"], found["missing"], found["prompts"], found["shards"]) == (4, 0, 2, "1 of 1")
    rows = {row["category"]: row["prompts"] for row in found["categories"]}
    assert rows == {ALL: 2, "single_object": 1, "counting": 1}
    for score in (s for row in found["categories"] for s in row["scores"] if s["role"] == "search"):
        assert score["gain"]["mean"] >= 0
    for tree, role in (("base", "base"), ("searched", "best")):
        made = folder / "out" / tree
        assert len(contents(made)) == 2 * 4
        for n in range(2):  # each sample is the file of a search with a seed of its own
            run = folder / "out" / "shards" / "1-of-1" / "runs" / f"00000-{n:02d}"
            assert json.loads((run / "request.json").read_text())["seed"] == 5 + n
            names = [p["files"][role][0] for p in json.loads((run / "run.json").read_text())["prompts"]]
            for place, name in enumerate(names):
                file = made / f"{place:05d}" / "samples" / f"{n:04d}.png"
                assert file.read_bytes() == (run / name).read_bytes()
    files = {
        p.relative_to(folder / "out" / "base").as_posix() for p in (folder / "out" / "base").rglob("*.png")
    }
    assert len({(folder / "out" / "base" / name).read_bytes() for name in files}) == len(
        files
    )  # no two are the same


def test_killed_it_goes_on_where_it_was(
    whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its second search; the same call then runs that one only, and nothing the third time."""
    from genscale.runs import finished_run

    folder, found = whole
    run, done = finished_run.generation.generate, list[int]()

    def generate(*args: Any) -> dict[str, Any]:
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt
        return run(*args)

    monkeypatch.setattr(finished_run.generation, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        bench(asked(folder), folder / "killed", QUIET)
    assert not (folder / "killed" / "summary.json").exists()
    again = bench(asked(folder), folder / "killed", QUIET)
    assert len(done) == 3
    assert {**again, "folder": ""} == {**found, "folder": ""}
    for tree in ("base", "searched"):
        assert listing(folder / "killed" / tree) == listing(folder / "out" / tree)
        assert pixels(folder / "killed" / tree) == pixels(folder / "out" / tree)
    assert bench(asked(folder), folder / "killed", QUIET) == again
    assert len(done) == 3
    with pytest.raises(UsageError, match="its samples differs"):
        bench(asked(folder, samples=1), folder / "killed", QUIET)
    with pytest.raises(UsageError, match="its steps differs"):
        bench(asked(folder, request=replace(REQUEST, steps=2)), folder / "killed", QUIET)


@pytest.mark.slow
def test_shards_and_groups_change_nothing(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, found = whole
    for k in (2, 1):
        parts = bench(asked(folder, shard=Shard(k, 2), group=1), folder / "shards", QUIET)
        assert parts["missing"] == (0 if k == 1 else 2)
        assert parts["shards"] == f"{3 - k} of 2"
    rows = {row["category"]: row["scores"] for row in parts["categories"]}
    for row in found["categories"]:  # a verifier's batches differ, and so may the last digit
        means = [score["searched"]["mean"] for score in row["scores"]]
        assert [score["searched"]["mean"] for score in rows[row["category"]]] == pytest.approx(
            means, abs=1e-5
        )
    for tree in ("base", "searched"):
        assert listing(folder / "shards" / tree) == listing(folder / "out" / tree)
        made, expected = pixels(folder / "shards" / tree), pixels(folder / "out" / tree)
        for name, levels in expected.items():  # batches of another size may round a level otherwise
            apart = np.frombuffer(made[name], np.uint8).astype(int) - np.frombuffer(levels, np.uint8)
            assert np.abs(apart).max() <= 1
            assert (apart != 0).mean() < 0.01


def test_a_benchmark_on_the_command_line(genscale: Command, here: Path) -> None:
    words = ("--candidates", 2, "--steps", 1, "--seed", 5)
    code, out, err = genscale(
        "bench",
        "t2i-compbench",
        "--prompts",
        here / "comp" / "color_val.txt",
        *words,
        "--samples",
        1,
        "--out",
        here / "o",
    )
    assert code == 0, err
    assert (
        listing(here / "o" / "searched")
        == "./samples/a blue ring._000001.png\n./samples/a red star_000000.png\n"
    )
    assert "shapes_clip" in out
    assert "not the benchmark's" in out


def test_a_refused_benchmark_leaves_nothing(genscale: Command, here: Path) -> None:
    cases = [
        (("bench", "geneval"), "needs its prompts"),
        (("bench", "nothing", "--prompts", here / "geneval.jsonl"), "benchmark 'nothing' is unknown"),
        (("bench", "geneval", "a star", "--prompts", here / "geneval.jsonl"), "one word too many"),
        (("bench", "geneval", "--prompts", here / "geneval.jsonl", "--shard", "9/3"), "--shard '9/3'"),
        (
            ("bench", "geneval", "--prompts", here / "geneval.jsonl", "--shard", "9/9"),
            "has no prompt: there are 3",
        ),
        (("bench", "geneval", "--prompts", here / "geneval.jsonl", "--group", 0), "--group 0 must be"),
        (
            ("bench", "geneval", "--prompts", here / "geneval.jsonl", "--verifier", "nobody"),
            "'nobody' is unknown",
        ),
        (("bench", "vbench", "--prompts", here / "vbench.json", "--model", "shapes-flow"), "makes images"),
        (("generate", "a red star", "--layout", "genevall"), "benchmark 'genevall' is unknown"),
        (("generate", "a star in the sky", "--layout", "geneval"), "evaluation_metadata.jsonl"),
        (("generate", "a red star", "--layout", "vbench"), "is for videos"),
        (("generate", "a red star", "--name", "{nothing}"), "must be a text with some of"),
    ]
    for words, why in cases:
        code, _, err = genscale(*words, "--out", here / "o")
        assert (code, why in " ".join(err.split())) == (2, True), err
        assert not (here / "o").exists()


def test_a_layout_and_names_of_an_ordinary_run(genscale: Command, here: Path) -> None:
    out = here / "run"
    words = ("--candidates", 2, "--steps", 1, "--seed", 5, "--images", 2, "--name", "{prompt:.5}-{seed}")
    code, printed, err = genscale(
        "generate", "--prompts", here / "geneval.jsonl", *words, "--layout", "geneval", "--out", out, "--json"
    )
    assert code == 0, err
    told = json.loads(printed)
    assert [p["files"]["best"] for p in told["prompts"]] == [
        ["a_red-5.png", "a_red-5-2.png"], ["two_b-5.png", "two_b-5-2.png"], ["a_blu-5.png", "a_blu-5-2.png"],
    ]  # fmt: skip
    assert all(
        (out / name).is_file() for p in told["prompts"] for names in p["files"].values() for name in names
    )
    expected = "".join(
        f"./{n:05d}/{name}\n" for n in range(3)
        for name in ("grid.png", "metadata.jsonl", "samples/0000.png", "samples/0001.png")
    )  # fmt: skip
    assert listing(out / "geneval" / "searched") == expected
    assert listing(out / "geneval" / "base").count("samples") == 3
    first = out / "geneval" / "searched" / "00000"
    assert (first / "samples" / "0000.png").read_bytes() == (out / "a_red-5.png").read_bytes()
    assert (first / "metadata.jsonl").read_text() == GENEVAL.splitlines()[0]
    assert genscale("replay", out / "a_red-5-base.png", "--out", here / "again.png")[0] == 0


@pytest.mark.slow
def test_videos_of_a_benchmark(genscale: Command, here: Path) -> None:
    (here / "color.txt").write_text("a red circle moving left\n")
    code, _, err = genscale(
        "bench", "vbench", "--prompts", here / "color.txt", "--candidates", 2, "--steps", 1, "--samples", 2,
        "--out", here / "o",
    )  # fmt: skip
    assert code == 0, err
    assert (
        listing(here / "o" / "base") == "./a red circle moving left-0.mp4\n./a red circle moving left-1.mp4\n"
    )
    assert listing(here / "o" / "searched") == listing(here / "o" / "base")
    assert run_bench.SUMMARY in {p.name for p in (here / "o").iterdir()}
