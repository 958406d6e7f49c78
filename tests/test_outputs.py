"""The run folder and what is in it: whole files or none, images that know their origin, a contact sheet."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from genscale.errors import UsageError
from genscale.report import contact_sheet, image_files, video_files
from genscale.report.contact_sheet import SheetRow, Tile
from genscale.report.png_metadata import infotext, png_info
from genscale.runs.read_request import from_dict, load_folder, load_request
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    claimed = RunFolder(tmp_path / "new/run")
    claimed.claim()
    return claimed


# ---------------------------------------------------------------------------------------------- the folder


def test_a_file_is_whole_or_not_there(folder):
    folder.write("a.txt", lambda path: path.write_text("old") and None)

    def torn(path):
        path.write_text("ne")
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="power"):
        folder.write("a.txt", torn)
    assert set(os.listdir(folder.path)) <= {"a.txt", ".lock"}
    assert (folder.path / "a.txt").read_text() == "old"


def test_a_full_disk_is_a_refusal(folder):
    def full(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match="No space left"):
        folder.write("a.txt", full)


def test_abandoned_without_work_nothing_is_left(folder, tmp_path):
    folder.begin(Request(("a dog",), seed=1))
    (folder.path / "latents").mkdir()
    (folder.path / "archive.jsonl").write_text("{}\n")
    assert folder.abandon() is False
    assert os.listdir(tmp_path) == []


def test_abandoned_with_work_it_is_kept(folder):
    (folder.path / "latents").mkdir()
    (folder.path / "latents/0-0-2.safetensors").write_bytes(b"x")
    assert folder.abandon() is True
    assert (folder.path / "latents").is_dir()


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "archive.jsonl").write_text("{}\n")
    claimed = RunFolder(tmp_path)
    claimed.claim()
    claimed.begin(Request(("a dog",), seed=1))
    claimed.abandon()
    assert sorted(os.listdir(tmp_path)) == ["archive.jsonl", "notes.txt"]


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        RunFolder(tmp_path / "file/a/b").claim()
    assert os.listdir(tmp_path) == ["file"]


def test_seed_is_drawn_once_and_found_again(folder):
    request = folder.settle(Request(("a dog",)))
    assert request.seed is not None
    folder.begin(request)
    later = RunFolder(folder.path)
    later.claim()
    assert later.settle(Request(("a dog",))).seed == request.seed
    assert later.settle(Request(("a dog",), device="cuda")).device == "cuda"  # how, not what
    with pytest.raises(UsageError, match="its steps differs"):
        later.settle(Request(("a dog",), steps=9))


# --------------------------------------------------------------------------------------------- the request


def test_a_request_comes_back_from_json(folder):
    request = Request(
        ("a", "b"), sampler_fields={"prune": (0.3, 0.6)}, lora=("x:0.5",), pipeline_args={"eta": 1}
    )
    read = from_dict(json.loads(json.dumps(request.as_dict())), "here")
    assert read.as_dict() == request.as_dict()
    assert read.difference(request) is None
    assert read.prompts == ("a", "b")


@pytest.mark.parametrize("data", [[], {}, {"prompts": []}, {"prompts": ["a"], "stepz": 3}, {"prompts": 3}])
def test_what_is_no_request_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match="holds no request"):
        from_dict(data, "here")
    (tmp_path / "request.json").write_text("{torn")
    with pytest.raises(UsageError, match="cannot be read"):
        load_folder(tmp_path)


# -------------------------------------------------------------------------------------------- the images


def test_infotext_has_the_form_that_viewers_read():
    request = Request(("x",), model="hub/some-model", negative="bad", steps=20, guidance=3.5, seed=7)
    text = infotext(request.as_dict(), "a star,\nred", (64, 48), "EulerDiscreteScheduler", "1.2")
    *prompt, negative, numbers = text.split("\n")
    assert prompt == ["a star,", "red"]
    assert negative == "Negative prompt: bad"
    pairs = dict(re.findall(r'(\w[\w ]*): ("(?:[^"\\]|\\.)*"|[^,]+)', numbers))
    assert pairs["Steps"] == "20"
    assert pairs["Sampler"] == "Euler"
    assert pairs["Size"] == "64x48"
    assert pairs["Model"] == "some-model"
    assert pairs["Version"] == "genscale 1.2"


def test_values_with_commas_are_quoted():
    request = Request(("x",), budget="480nfe,60s")
    assert 'Budget: "480nfe,60s"' in infotext(request.as_dict(), "x", (8, 8), "NoneType", "1")


def test_any_language_survives_in_a_picture(tmp_path):
    request = Request(("赤い星 ✨",), seed=1)
    info = png_info(
        infotext(request.as_dict(), request.prompts[0], (8, 8), "", "1"), {"request": request.as_dict()}
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert load_request(tmp_path / "a.png").prompts == ("赤い星 ✨",)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["parameters"].startswith("赤い星 ✨\n")


FRAMES = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
AGAIN = {"prompt": "a dog", "request": {"prompts": ["a dog"]}}


def test_a_clip_is_a_poster_and_a_film_in_each_format(folder):
    names = image_files.write_item(folder, "best", FRAMES, Request(("a dog",)).as_dict(), AGAIN, "Scheduler")
    assert names == ["best.png", "best.mp4", "best.gif"]
    assert np.stack(video_files.read_frames(folder.path / "best.mp4")).shape == (4, 16, 16, 3)
    names = image_files.write_item(
        folder, "one", FRAMES, Request(("a dog",), formats=("gif",)).as_dict(), AGAIN, "Scheduler"
    )
    assert names == ["one.png", "one.gif"]


def test_a_film_of_odd_sides_loses_a_line_and_no_frame(tmp_path):
    video_files.write_video(tmp_path / "a.mp4", "mp4", [frame.resize((17, 15)) for frame in FRAMES], 23.976)
    assert np.stack(video_files.read_frames(tmp_path / "a.mp4")).shape == (4, 14, 16, 3)


# ---------------------------------------------------------------------------------------- the contact sheet


def test_small_pictures_are_enlarged_four_times_without_smoothing():
    picture = Image.new("RGB", (64, 64), (10, 20, 30))
    picture.putpixel((5, 5), (200, 0, 0))
    drawn = contact_sheet.sheet([SheetRow("a dog", (Tile(picture, "base"),))], "title")
    red = [
        (x, y)
        for x in range(drawn.width)
        for y in range(drawn.height)
        if drawn.getpixel((x, y)) == (200, 0, 0)
    ]
    assert len(red) == 16


def test_rows_of_different_lengths_and_long_texts_fit():
    big, wide = Image.new("RGB", (1024, 1024)), Image.new("L", (300, 40))
    tiles = (Tile(big, "base", ("clip  0.3",)), Tile(big, "best", ("clip  0.4", "x" * 200), "+0.100", True))
    drawn = contact_sheet.sheet(
        [SheetRow("a very long prompt " * 30, tiles), SheetRow("", (Tile(wide, "base"),))], "t" * 500
    )
    assert drawn.width < 900
    assert drawn.height > 2 * 40
    assert drawn.getpixel((drawn.width - 1, drawn.height // 2)) == contact_sheet.GROUND
