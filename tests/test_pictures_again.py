"""`genscale replay` and `genscale score`, in process, on the bundled toy model with tiny settings."""

import json

import numpy as np
import pytest
from PIL import Image

from genscale.cli.app import main
from genscale.commands import replay
from genscale.commands.replay_copies import Content
from genscale.report import video_files

PROMPTS = ("a red star", "a blue ring")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run for each sampler: two prompts, the two best images."""
    folder = tmp_path_factory.mktemp("runs")

    def run(sampler, prompts=PROMPTS, *more):
        out = folder / f"{sampler}-{len(prompts)}"
        if not out.exists():
            words = (
                "--budget",
                "30nfe",
                "--steps",
                "3",
                "--seed",
                "3",
                "--images",
                "2",
                "--out",
                str(out),
                *more,
            )
            assert main(["generate", *prompts, "--sampler", sampler, *words, "--json"]) == 0
        return out

    return run


@pytest.mark.parametrize("sampler", ["best_of_n", "zero_order", "smc", "dts_star"])
def test_replay_gives_the_same_pixels(sampler, runs, genscale, tmp_path):
    for name in ("000-best.png", "001-base.png"):
        code, out, err = genscale("replay", runs(sampler) / name, "--out", tmp_path / name, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert (found["same"], found["differing"], found["of"]) == (True, 0, 64 * 64)
        with Image.open(runs(sampler) / name) as a, Image.open(tmp_path / name) as b:
            assert a.tobytes() == b.tobytes()


def test_a_runner_up_is_replayed_as_itself(runs, genscale, tmp_path):
    """One prompt, one candidate at a time: on some processors larger batches round otherwise, and all is repeated."""
    picture = runs("best_of_n", PROMPTS[1:], "--batch-size", "1") / "best-2.png"
    code, out, _ = genscale("replay", picture, "--out", tmp_path / "again.png")
    assert code == 0
    assert "the same pixels (4096 of 4096): its candidate alone was made again" in out


def test_what_differs_is_counted_and_is_exit_code_1(runs, genscale, tmp_path):
    """The broken twin: three pixels of the image are changed, its metadata is not."""
    with Image.open(runs("best_of_n") / "000-best.png") as image:
        pixels = np.array(image)
        pixels[:3, 0, 1] ^= 1
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("genscale", image.text["genscale"])
        Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    code, out, _ = genscale("replay", tmp_path / "a.png")
    assert code == 3
    assert "3 of 4096 pixels differ, by at most 1 of 255: the whole search was run again" in out
    assert (tmp_path / "a-replay.png").is_file()


def test_batches_that_round_otherwise_are_searched_again(runs, genscale, tmp_path, monkeypatch):
    made = replay.Copy(Content(np.zeros((64, 64, 3), np.uint8), {}), b"")
    monkeypatch.setattr(replay, "_candidate", lambda origin, candidate, kind: (made, 5))
    code, out, err = genscale("replay", runs("best_of_n") / "000-best.png", "--out", tmp_path / "a.png")
    assert code == 0, err
    assert "its pixels are not the same" in err
    assert "the whole search was run again" in out


def test_a_picture_from_elsewhere_cannot_switch_code_on(genscale, tmp_path, monkeypatch):
    """Made alone nothing is judged; a held-out verifier is left out; one that steers is refused."""
    (tmp_path / "odd_judges.py").write_text(
        "def one(media, prompts):\n    return [m.getpixel((3, 3))[0] for m in media]\n"
    )
    monkeypatch.chdir(tmp_path)
    words = (
        "--verifier",
        "odd_judges:one",
        "--steps",
        2,
        "--budget",
        "12nfe",
        "--seed",
        1,
        "--held-out",
        "none",
    )
    for sampler in ("best_of_n", "zero_order"):
        assert genscale("generate", "a red star", *words, "--sampler", sampler, "--out", sampler)[0] == 0
    monkeypatch.setattr("genscale.runs.verifier_specs._imported", lambda name: pytest.fail("was imported"))
    assert genscale("replay", "best_of_n/best.png")[0] == 0
    assert genscale("score", "best_of_n/best.png", "--verifier", "compressibility")[0] == 0
    again = request_again("best_of_n/best.png", sampler="zero_order", shows={"origin": "neighbour"})
    code, out, err = genscale("replay", again)
    assert (code, out) == (2, "")
    assert "asks for code from a module or for a server (odd_judges:one)" in err


def request_again(picture, sampler, shows):
    """The image with other metadata."""
    from PIL.PngImagePlugin import PngInfo

    with Image.open(picture) as image:
        told, info = json.loads(image.text["genscale"]), PngInfo()
        told["request"]["sampler"] = sampler
        told["shows"] |= shows
        info.add_itxt("genscale", json.dumps(told))
        image.save("again.png", pnginfo=info)
    return "again.png"


def test_replay_refuses_in_one_sentence(runs, genscale, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    picture = runs("best_of_n") / "000-best.png"
    for words, sentence in (
        ((tmp_path / "plain.png",), "carries no genscale metadata"),
        ((tmp_path / "gone.png",), "cannot be read: No such file"),
        ((picture, "--out", picture), "is the image itself"),
    ):
        code, out, err = genscale("replay", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert sentence in err


def test_scores_are_those_of_the_run(runs, genscale):
    """Of 8-bit files, so up to their rounding."""
    out = runs("best_of_n")
    record = json.loads((out / "run.json").read_text())
    files = [out / "000-best.png", out / "001-base.png"]
    code, shown, err = genscale("score", *files, "--json")
    assert code == 0, err
    rows = json.loads(shown)
    for row, place, (i, which) in zip(rows, files, ((0, "best"), (1, "base")), strict=True):
        assert (row["file"], row["prompt"]) == (str(place), PROMPTS[i])
        wanted = record["prompts"][i][which]
        assert row["scores"]["shapes_clip"] == pytest.approx(wanted["search"]["shapes_clip"], abs=2e-3)
        assert row["scores"]["shapes"] == wanted["held_out"]["shapes"]


def test_score_of_any_files_in_the_order_given(genscale, tmp_path):
    sizes = ((16, 16), (8, 12), (16, 16))
    for i, size in enumerate(sizes):
        Image.new("RGB", size, (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    frames = [Image.new("RGB", (16, 16), (60 * i, 9, 0)) for i in range(3)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    files = [*(tmp_path / f"{i}.png" for i in range(3)), tmp_path / "clip.gif"]
    code, out, _ = genscale("score", *files, "--prompt", "x", "--verifier", "compressibility", "--json")
    assert code == 0
    assert [row["file"] for row in json.loads(out)] == [str(f) for f in files]
    code, out, _ = genscale("score", *files, "--prompt", "x", "--verifier", "compressibility")
    assert code == 0
    assert out.splitlines()[0] == "x"
    assert out.count(" -0.6") == 4


def test_score_of_a_film(genscale, tmp_path):
    video_files.write_video(tmp_path / "a.mp4", "mp4", [Image.new("RGB", (16, 16))] * 4, 16)
    words = ("--prompt", "x", "--verifier", "compressibility", "--json")
    code, out, err = genscale("score", tmp_path / "a.mp4", *words)
    assert code == 0, err
    assert json.loads(out)[0]["scores"]["compressibility"] < 0


def test_score_refuses_in_one_sentence(genscale, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    for words, sentence in (
        ((tmp_path / "a.png",), "does not say what it shows"),
        ((tmp_path / "gone.png", "--prompt", "x", "--verifier", "compressibility"), "is not a file"),
        ((tmp_path / "b.png", "--prompt", "x", "--verifier", "compressibility"), "it is not an image"),
        ((tmp_path / "a.png", "--prompt", "x", "--verifier", "clipp"), "did you mean 'clip'"),
    ):
        code, out, err = genscale("score", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert sentence in err
