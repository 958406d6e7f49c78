"""Files of sounds, maps, embeddings, texts and meshes: nothing is lost, and they say how they were made."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genscale.errors import UsageError
from genscale.media_items import Audio, Map, Mesh, Vector
from genscale.report import audio_files, audio_picture, data_files, image_files, item_pictures
from genscale.report.contact_sheet import SheetRow, Tile, sheet
from genscale.report.output_folder import OutputFolder
from genscale.runs.file_metadata import read_metadata

RANDOM = np.random.default_rng(0)
LONG = json.dumps({"a": "é" * 40_000, "b": "\x01 line\n 雪"}, ensure_ascii=False)
REQUEST = {"model": "m", "sampler": "best_of_n", "seed": 1}


def sound(channels: int = 2, samples: int = 101, rate: int = 22050) -> Audio:
    return Audio(RANDOM.normal(size=(channels, samples)).astype(np.float32), rate)


def triangle(colours: bool = True) -> Mesh:
    corners = RANDOM.normal(size=(4, 3)).astype(np.float32)
    own = RANDOM.uniform(size=(4, 3)).astype(np.float32)
    return Mesh(corners, np.array([[0, 1, 2], [1, 3, 2]]), own if colours else None)


ITEMS: dict[str, Any] = {
    "audio": sound(),
    "depth": Map(RANDOM.uniform(size=(5, 7)).astype(np.float32), "depth"),
    "normals": Map(RANDOM.normal(size=(5, 7, 3)).astype(np.float32), "normals"),
    "embedding": Vector(RANDOM.normal(size=19).astype(np.float32), "embedding"),
    "latent": Vector(RANDOM.normal(size=(4, 3, 3)).astype(np.float32), "latent"),
    "text": "two lines\nof 雪",
    "mesh": triangle(),
}


# ---------------------------------------------------------------- sounds


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("comment", [None, "{}", LONG, LONG + "x"])
def test_a_wav_holds_every_sample_and_a_comment_of_any_length(
    tmp_path: Path, channels: int, comment: str | None
) -> None:
    path, audio = tmp_path / "a.wav", sound(channels)
    audio.waveform[0, :3] = (3.5, np.nan, -np.inf)
    audio_files.write_audio(path, "wav", audio, comment)
    found = audio_files.read_audio(path)
    assert np.array_equal(found.waveform, audio.waveform, equal_nan=True)
    assert found.sampling_rate == 22050
    assert audio_files.comment_of(path) == comment


def test_other_programs_read_the_wav(tmp_path: Path) -> None:
    import soundfile
    from scipy.io import wavfile

    path, audio = tmp_path / "a.wav", sound()
    audio_files.write_audio(path, "wav", audio, LONG)
    for rate, samples in (wavfile.read(path), soundfile.read(path, dtype="float32")[::-1]):
        assert rate == 22050
        assert np.array_equal(samples.T, audio.waveform)
    size = struct.unpack("<I", path.read_bytes()[4:8])[0]
    assert size == path.stat().st_size - 8


def test_the_same_sound_makes_the_same_bytes(tmp_path: Path) -> None:
    audio = sound()
    for name in ("a.wav", "b.wav"):
        audio_files.write_audio(tmp_path / name, "wav", audio, "x")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_flac_rounds_to_24_bits_and_cuts_at_full_scale(tmp_path: Path) -> None:
    path, audio = tmp_path / "a.flac", sound()
    audio_files.write_audio(path, "flac", audio, LONG)
    found = audio_files.read_audio(path)
    assert np.abs(found.waveform - audio.waveform.clip(-1, 1)).max() <= 2**-23
    assert audio_files.comment_of(path) == LONG


def test_wav_of_other_programs_are_read(tmp_path: Path) -> None:
    from scipy.io import wavfile

    samples = (RANDOM.uniform(-1, 1, (50, 2)) * 32767).astype(np.int16)
    wavfile.write(tmp_path / "a.wav", 8000, samples)
    found = audio_files.read_audio(tmp_path / "a.wav")
    assert np.allclose(found.waveform.T, samples / 32768, atol=1e-7)
    assert found.sampling_rate == 8000
    assert audio_files.comment_of(tmp_path / "a.wav") is None


@pytest.mark.parametrize("damage", [b"", b"RIFF", b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff", b"no sound" * 9])
def test_damaged_sounds_are_refused_in_a_sentence(tmp_path: Path, damage: bytes) -> None:
    for ending in ("wav", "flac"):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(damage)
        for read in (audio_files.read_audio, read_metadata):
            with pytest.raises(UsageError, match=r"sound.*\.$|carries no genscale metadata.*\.$"):
                read(path)


def test_without_soundfile_wav_still_works_and_flac_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    audio_files.write_audio(tmp_path / "a.wav", "wav", sound(), "x")
    assert audio_files.read_audio(tmp_path / "a.wav").waveform.shape == (2, 101)
    audio_files.check_format("wav")
    with pytest.raises(UsageError, match=r"pip install 'genscale\[audio\]'"):
        audio_files.check_format("flac")


# ---------------------------------------------------------------- other data


@pytest.mark.parametrize("kind", ["depth", "normals", "embedding", "latent"])
def test_an_npz_holds_every_number(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    data_files.write_data(path, ITEMS[kind], LONG)
    with np.load(path, allow_pickle=False) as arrays:
        assert np.array_equal(arrays[kind], ITEMS[kind].values)
    found = data_files.read_values(path)
    assert found is not None
    assert np.array_equal(found, ITEMS[kind].values)
    assert data_files.comment_of(path) == LONG


def read_glb(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The scene of a glb file, and its accessors as arrays, by the rules of glTF 2.0."""
    assert struct.unpack("<4sII", data[:12]) == (b"glTF", 2, len(data))
    length, kind = struct.unpack("<I4s", data[12:20])
    assert (kind, length % 4) == (b"JSON", 0)
    scene = json.loads(data[20 : 20 + length])
    size, kind = struct.unpack("<I4s", data[20 + length : 28 + length])
    body = data[28 + length :]
    assert (kind, size, size % 4) == (b"BIN\0", len(body), 0)
    arrays = []
    for accessor in scene["accessors"]:
        view = scene["bufferViews"][accessor["bufferView"]]
        part = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        flat = np.frombuffer(part, {5126: "<f4", 5125: "<u4"}[accessor["componentType"]])
        arrays.append(flat.reshape(accessor["count"], -1))
    return scene, arrays


@pytest.mark.parametrize("colours", [True, False])
def test_a_glb_is_gltf(colours: bool) -> None:
    mesh = triangle(colours)
    scene, arrays = read_glb(data_files.glb(mesh, LONG))
    [primitive] = scene["meshes"][0]["primitives"]
    names = primitive["attributes"]
    assert np.array_equal(arrays[names["POSITION"]], mesh.vertices)
    assert np.array_equal(arrays[primitive["indices"]].ravel(), mesh.faces.ravel())
    assert ("COLOR_0" in names) == colours
    if mesh.colours is not None:
        assert np.array_equal(arrays[names["COLOR_0"]], mesh.colours)
    assert np.allclose(scene["accessors"][0]["min"], mesh.vertices.min(0))
    assert scene["asset"]["extras"]["genscale"] == LONG


@pytest.mark.parametrize("kind", ITEMS)
def test_every_item_is_written_with_its_picture_and_says_how_it_was_made(tmp_path: Path, kind: str) -> None:
    item, again = ITEMS[kind], {"prompt": "a dog", "request": REQUEST, "shows": None}
    again.pop("shows")
    names = image_files.write_item(OutputFolder(tmp_path), "best", item, REQUEST, again, "DDIMScheduler")
    own = {"audio": "wav", "text": "txt", "mesh": "glb"}.get(kind, "npz")
    assert names == ["best.png", f"best.{own}"]
    for name in names:
        if own == "txt" and name == "best.txt":
            assert (tmp_path / name).read_text(encoding="utf-8") == item
            with pytest.raises(UsageError, match="name the PNG beside it"):
                read_metadata(tmp_path / name)
            continue
        found = read_metadata(tmp_path / name)
        assert found["request"] == REQUEST
        assert found["content"] == image_files.fingerprint(item)["content"]
    with Image.open(tmp_path / "best.png") as image:
        assert "Size" not in image.text["parameters"]


def test_without_metadata_files_say_nothing(tmp_path: Path) -> None:
    again, request = {"prompt": "a", "request": REQUEST}, {**REQUEST, "metadata": False}
    for kind in ("audio", "depth", "mesh"):
        for name in image_files.write_item(OutputFolder(tmp_path), kind, ITEMS[kind], request, again, ""):
            with pytest.raises(UsageError, match="carries no genscale metadata"):
                read_metadata(tmp_path / name)


def test_formats_that_suit_the_item(tmp_path: Path) -> None:
    video = [Image.new("RGB", (4, 4))]
    for formats, of_audio, of_video in (
        ((), ("wav",), ("mp4", "gif")),
        (("flac",), ("flac",), ("mp4", "gif")),
        (("gif", "wav", "flac"), ("wav", "flac"), ("gif",)),
    ):
        request = {"formats": formats}
        assert image_files.formats_of(ITEMS["audio"], request) == of_audio
        assert image_files.formats_of(video, request) == of_video  # type: ignore[arg-type]
        assert image_files.formats_of(ITEMS["mesh"], request) == ("glb",)


def test_a_fingerprint_sees_one_changed_number() -> None:
    for item in ITEMS.values():
        told = image_files.fingerprint(item)
        assert told == image_files.fingerprint(item)
        if isinstance(item, str):
            assert told != image_files.fingerprint(item + " ")
            continue
        values = item.waveform if isinstance(item, Audio) else getattr(item, "values", None)
        values = item.vertices if values is None else values
        values.flat[0] += 1e-3
        assert told != image_files.fingerprint(item)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(("frequency", "amplitude"), [(440.0, 0.5), (1000.0, 1.0), (3000.0, 0.01)])
def test_a_sine_shows_at_its_frequency_with_its_level(frequency: float, amplitude: float) -> None:
    rate, rows = 16000, 176
    time = np.arange(rate) / rate
    level = audio_picture.mel_decibels(amplitude * np.sin(2 * np.pi * frequency * time), rate, rows)
    mel = 2595 * np.log10(1 + frequency / 700) / (2595 * np.log10(1 + rate / 2 / 700))
    assert abs(int(level.mean(1).argmax()) - mel * rows) <= 3
    assert level.max() == pytest.approx(
        20 * np.log10(amplitude), abs=1.5
    )  # a Hann window spreads it over bins
    assert level[-10:].max() < level.max() - 60


def test_silence_is_dark_and_every_length_has_a_picture() -> None:
    picture = np.asarray(audio_picture.picture(Audio(np.zeros((1, 4000), np.float32), 8000)))
    spectrum = picture[audio_picture.WAVE : audio_picture.WAVE + audio_picture.SPECTRUM]
    assert spectrum.max() <= 4  # magma's darkest colour
    for samples in (1, 2, 63, 700, 5000):
        made = audio_picture.picture(Audio(np.full((3, samples), np.nan, np.float32), 8000))
        assert made.width == audio_picture.WIDTH


def test_a_waveform_at_full_scale_is_red() -> None:
    red = np.array(audio_picture.CLIPPED)
    for top, has in ((1.0, True), (0.98, False)):
        wave = np.zeros((1, 2000), np.float32)
        wave[0, 700:900] = top
        picture = np.asarray(audio_picture.picture(Audio(wave, 8000)))
        assert bool((picture == red).all(-1).any()) == has


@pytest.mark.parametrize("kind", ITEMS)
def test_every_kind_has_a_picture_that_depends_on_it(kind: str) -> None:
    picture = item_pictures.picture(ITEMS[kind])
    assert picture.mode == "RGB"
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 2
    file = io.BytesIO()
    sheet([SheetRow("a", (Tile.of(ITEMS[kind], "best", ("x  1",), winner=True),))], "title").save(file, "PNG")
    assert Tile.of(ITEMS[kind], "best").strip == (kind in ("audio", "text"))


def test_depth_is_grey_and_normals_are_colours() -> None:
    ramp = Map(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), "depth")
    grey = np.asarray(item_pictures.picture(ramp))
    assert grey[..., 0].ravel().tolist() == np.round(np.linspace(0, 255, 12)).tolist()
    metres = Map(np.array([[2.0, 7.0]], np.float32), "depth")
    assert np.asarray(item_pictures.picture(metres))[0, :, 0].tolist() == [0, 255]
    facing = Map(np.array([[[0, 0, 1]]], np.float32), "normals")
    assert np.asarray(item_pictures.picture(facing))[0, 0].tolist() == [128, 128, 255]


def test_a_mesh_without_faces_has_an_empty_picture() -> None:
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
    assert item_pictures.picture(empty).getextrema() == ((255, 255),) * 3
    found = data_files.glb(empty, "x")
    assert struct.unpack("<4sII", found[:12]) == (b"glTF", 2, len(found))
    assert "meshes" not in json.loads(found[20:])
