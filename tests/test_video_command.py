"""`genscale video`: on the bundled toy model, and on tiny random-weight pipelines of four families."""

import json
import math

import av
import numpy as np
import pytest
import torch
from PIL import Image

import genscale as library
from genscale.media import Media
from genscale.pipelines.decode import Decoder
from genscale.report import film_strip, video_files
from genscale.runs import generate, verifier_specs
from genscale.runs.file_metadata import read_metadata
from genscale.toy.moving_shapes import PROMPTS
from genscale.verifiers.frames import Frames
from tests.quick import quick
from tests.zoo import ZOO

CAPTIONS = ("a red circle moving left", "a blue circle moving up")
FAMILIES = {"wan": (16, 5), "ltx": (32, 5), "cogvideox": (32, 9), "animatediff": (16, 3)}
SAMPLERS = {
    "best_of_n": ("--candidates", 3),
    "successive_halving": ("--candidates", 4),
    "zero_order": ("--rounds", 1, "--neighbours", 2),
    "smc": ("--particles", 3),
    "evolution": ("--start", 4, "--sizes", 3, "--elites", 1),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved pipelines, by family."""
    root = tmp_path_factory.mktemp("clips")

    def folder(name):
        if not (root / name).is_dir():
            ZOO[name].build().save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture
def run(genscale, tmp_path):
    """A run in a folder of its own: (folder, record)."""

    def run(*words, name="run"):
        code, out, err = genscale("video", *words, "--seed", 1, "--out", tmp_path / name, "--json")
        assert code == 0, err
        return tmp_path / name, json.loads(out)

    return run


@pytest.fixture
def shapes(run):
    return run(*CAPTIONS, "--candidates", 3, "--steps", 3)


# ------------------------------------------------------------------------------------- the bundled toy model


def test_every_prompt_gets_a_picture_and_both_films(shapes):
    folder, record = shapes
    names = [
        f"00{i}-{which}.{kind}"
        for i in (0, 1)
        for which in ("base", "best")
        for kind in ("png", "mp4", "gif")
    ]
    assert all((folder / name).is_file() for name in names)
    assert record["request"]["model"] == "shapes-video"
    assert record["verifiers"] == {
        "search": ["shapes_video_clip"],
        "select": [],
        "held_out": ["moving_shapes"],
    }
    told = record["prompts"][0]["files"]
    assert told["best"] == ["000-best.png", "000-best.mp4", "000-best.gif"]


def test_films_are_what_was_judged_up_to_compression(shapes):
    folder, _ = shapes
    with Image.open(folder / "000-best.png") as image:
        first = np.asarray(image.convert("RGB"), dtype=float)
    frames = video_files.read_frames(folder / "000-best.mp4")
    assert np.abs(frames[0] - first).mean() < 4
    with Image.open(folder / "000-best.gif") as image:
        assert image.n_frames == len(frames) == 5
        assert image.info["duration"] == 250  # 4 frames a second
        assert image.info["loop"] == 0
        assert np.abs(np.asarray(image.convert("RGB"), dtype=float) - first).mean() < 4
    with av.open(str(folder / "000-best.mp4")) as container:
        assert container.streams.video[0].average_rate == 4
        assert container.streams.video[0].codec_context.name == "h264"


def test_each_file_knows_its_origin_and_the_others_do_not(shapes, run):
    folder, record = shapes
    told = [read_metadata(folder / f"001-best.{kind}") for kind in ("png", "mp4", "gif")]
    assert told[0] == told[1] == told[2]
    assert told[0]["prompt"] == CAPTIONS[1]
    assert told[0]["request"] == record["request"]
    assert told[0]["clip"]["frames"] == 5
    bare, _ = run(
        CAPTIONS[0], "--candidates", 1, "--steps", 2, "--no-metadata", "--formats", "gif", name="bare"
    )
    assert not (bare / "best.mp4").exists()
    for kind in ("png", "gif"):
        with pytest.raises(library.UsageError, match="carries no genscale metadata"):
            read_metadata(bare / f"best.{kind}")


@pytest.mark.parametrize("name", ["000-best.png", "000-best.mp4", "001-base.gif"])
def test_replay_makes_every_frame_again(shapes, genscale, tmp_path, name):
    folder, _ = shapes
    again = tmp_path / f"again.{name[-3:]}"
    code, out, err = genscale("replay", folder / name, "--out", again, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["same"], found["frames"]) == (True, 5)
    if name.endswith("mp4"):
        assert len(video_files.read_frames(again)) == 5
    else:
        with Image.open(again) as image:
            assert getattr(image, "n_frames", 1) == (5 if name.endswith("gif") else 1)


def test_replay_sees_a_later_frame_that_is_another(shapes, genscale, tmp_path):
    """The broken twin: the first frame is the same, the fingerprint of the video is not."""
    from PIL.PngImagePlugin import PngInfo

    folder, _ = shapes
    with Image.open(folder / "001-base.png") as image:
        told = json.loads(image.text["genscale"])
        told["clip"]["sha256"] = "0" * 64
        info = PngInfo()
        info.add_itxt("genscale", json.dumps(told))
        image.save(tmp_path / "a.png", pnginfo=info)
    code, out, _ = genscale("replay", tmp_path / "a.png", "--json")
    assert code == 3
    assert (json.loads(out)["same"], json.loads(out)["differing"]) == (False, 0)


def test_films_are_scored_like_the_clips_they_show(shapes, genscale):
    folder, record = shapes
    files = [folder / f"000-best.{kind}" for kind in ("mp4", "gif")]
    code, out, err = genscale("score", *files, "--json")
    assert code == 0, err
    wanted = record["prompts"][0]["best"]["search"]["shapes_video_clip"]
    for row in json.loads(out):
        assert row["prompt"] == CAPTIONS[0]
        assert row["scores"]["shapes_video_clip"] == pytest.approx(wanted, abs=0.1)


def test_contact_sheet_and_show_have_clips_over_time(shapes, genscale):
    """Strips: wider than one frame, so as many columns of white gaps."""
    folder, _ = shapes
    with Image.open(folder / "contact.png") as sheet:
        assert sheet.width > 4 * 160
    assert genscale("show", folder)[0] == 0
    strip = film_strip.strip([Image.new("RGB", (32, 32), (60 * i, 0, 0)) for i in range(5)])
    starts = [i * (strip.width + 4) // 5 for i in range(5)]
    assert [strip.getpixel((x, 5)) for x in starts] == [(60 * i, 0, 0) for i in range(5)]
    assert [strip.getpixel((x - 2, 5)) for x in starts[1:]] == [(255, 255, 255)] * 4
    long = film_strip.strip([Image.new("RGB", (1280, 720), (i, 0, 0)) for i in range(81)], most=8)
    assert long.width <= 1000
    assert long.getpixel((0, 9))[0] == 0
    assert long.getpixel((long.width - 1, 9))[0] == 80  # from the first to the last


def test_resume_goes_on_with_a_clip_search(run, genscale):
    folder, record = run(CAPTIONS[0], "--candidates", 2, "--steps", 2)
    (folder / "run.json").unlink()
    code, out, err = genscale("resume", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["prompts"][0]["best"]["total"] == record["prompts"][0]["best"]["total"]


# ------------------------------------------------------------------------------------------ other families


@pytest.mark.parametrize("sampler", quick(SAMPLERS, ("best_of_n", "smc")))
@pytest.mark.parametrize("family", quick(FAMILIES, ("wan",)))
def test_families_and_samplers(folders, run, family, sampler):
    size, frames = FAMILIES[family]
    more = [] if family == "animatediff" else ["--pipeline-args", '{"max_sequence_length": 32}']
    words = ("--size", size, "--frames", frames, "--steps", 4, "--guidance", 3, *more)
    folder, record = run(
        "a red cube", "--model", folders(family), *words, "--verifier", "compressibility",
        "--sampler", sampler, *SAMPLERS[sampler], "--budget", "96nfe", "--held-out", "dynamic_degree",
    )  # fmt: skip
    found = record["prompts"][0]
    assert found["nfe"] <= 96
    assert found["best"]["total"] >= found["base"]["total"]
    assert math.isfinite(found["best"]["held_out"]["dynamic_degree"])
    assert len(video_files.read_frames(folder / "best.mp4")) == frames
    with av.open(str(folder / "best.mp4")) as container:
        assert container.streams.video[0].average_rate == (25 if family == "ltx" else 16)


def test_pictures_are_refused(genscale, folders, tmp_path):
    ZOO["stable_diffusion"].build().save_pretrained(tmp_path / "sd")
    for model in ("shapes-flow", tmp_path / "sd"):
        words = ("--verifier", "compressibility", "--held-out", "none", "--out", tmp_path / "out")
        code, out, err = genscale("video", "a dog", "--model", model, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "makes images" in err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--formats", "avi"), "--formats 'avi' is unknown"),
        (("--fps", 0), "must be above 0"),
        (("--per-frame", 0), "must be at least 1"),
        (("--decode-batch", 0), "must be at least 1"),
        (("--device-map", "balanced", "--device", "cpu"), "leave device and offload out"),
    ],
)
def test_bad_options_are_one_sentence(genscale, tmp_path, words, sentence):
    code, out, err = genscale("video", "a red circle moving left", *words, "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------- who sees what


def brightness(media, prompts):
    """Knows images only."""
    assert not media.is_video
    assert len(media) == len(prompts)
    return [float(np.asarray(picture).mean()) for picture in media]


def motion(media, prompts):
    """Knows videos only."""
    assert media.is_video
    return [float(m) for m in media.pixels.diff(dim=1).abs().mean((1, 2, 3, 4))]


motion.judges_clips = True


def test_judges_of_pictures_see_frames_and_those_of_clips_see_clips():
    pixels = torch.rand(2, 9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    members = [
        ("compressibility", 2.0),
        ("dynamic_degree", 1.0),
        (verifier_specs.Named("b", brightness), 1.0),
    ]
    members += [(verifier_specs.Named("m", motion), 1.0)]
    lifted = verifier_specs.on_frames(members, 3)
    assert [w for _, w in lifted] == [2.0, 1.0, 1.0, 1.0]
    assert [getattr(v, "name", v) for v, _ in lifted] == ["compressibility", "dynamic_degree", "b", "m"]
    seen = Media(pixels[:, [0, 4, 8]].flatten(0, 1))
    expected = torch.tensor(brightness(seen, [""] * 6)).reshape(2, 3).mean(1)
    found = torch.as_tensor(lifted[2][0](Media(pixels), ["", ""]))
    torch.testing.assert_close(found, expected)
    assert lifted[3][0](Media(pixels), ["", ""]) == motion(Media(pixels), ["", ""])
    pictures = Media(pixels[:, 0])
    assert lifted[2][0](pictures, ["", ""]).tolist() == pytest.approx(brightness(pictures, ["", ""]))


def test_a_callable_that_is_differentiable_stays_so_on_frames():
    pixels = torch.rand(1, 5, 3, 8, 8, requires_grad=True)
    Frames(lambda media, prompts: media.pixels.flatten(1).mean(1), k=3).score_tensor(pixels, [""]).backward()
    assert pixels.grad.flatten(2).abs().sum(2)[0].gt(0).tolist() == [True, False, True, False, True]
    with pytest.raises(library.UsageError, match="no gradients"):
        Frames(lambda media, prompts: torch.zeros(len(media)), k=3).score_tensor(pixels, [""])


def test_defaults_of_a_model_without_judges(genscale, folders, monkeypatch):
    asked = []

    def plan(run, display):
        asked.append(run.request)
        raise library.UsageError("that is enough.")

    monkeypatch.setattr(generate, "plan", plan)
    for words in ((), ("--verifier", "dynamic_degree", "--batch-size", 4)):
        assert genscale("video", "x", "--model", folders("wan"), "--dry-run", *words)[0] == 2
    first, second = asked
    assert (first.verifiers, first.held_out) == (("clip",), ("temporal_consistency", "dynamic_degree"))
    assert (first.batch_size, first.decode_batch, first.clips) == (1, 1, True)
    assert (second.verifiers, second.held_out) == (("dynamic_degree",), ("temporal_consistency",))
    assert second.batch_size == 4


# ------------------------------------------------------------------------------------------ bounded memory


@pytest.mark.parametrize("given", [None, 1, 2])
def test_no_more_clips_are_decoded_at_once_than_allowed(given, monkeypatch):
    """By default one while judging; with decode_batch given, the results too, of the pipeline's own class."""
    pipe = ZOO["wan"].build()
    call = ZOO["wan"].arguments(3) | {"output_type": "np"}
    seen = []
    tail = Decoder._run
    monkeypatch.setattr(
        Decoder,
        "_run",
        lambda self, given, latents, *more: seen.append(len(latents)) or tail(self, given, latents, *more),
    )

    def generators():
        return [torch.Generator().manual_seed(i) for i in range(3)]

    scaled = library.scale(
        pipe,
        "best_of_n",
        lambda media, prompts: media.pixels.flatten(1).mean(1),
        candidates=2,
        decode_batch=given,
    )
    output = scaled(generator=generators(), **call)
    assert seen == {None: [1] * 6 + [3], 1: [1] * 9, 2: [2, 2, 2, 2, 1]}[given]
    whole = library.scale(
        pipe,
        "best_of_n",
        lambda media, prompts: media.pixels.flatten(1).mean(1),
        candidates=2,
        decode_batch=64,
    )(generator=generators(), **call)
    assert type(output) is type(whole)
    np.testing.assert_allclose(output.frames, whole.frames, atol=2e-5)


def test_the_command_never_holds_more_than_one_clip_as_pixels(folders, run, monkeypatch):
    """Judging, base, best and runners-up of every prompt; and no decode of all results at the end."""
    seen, tail = [], Decoder._run

    def counted(self, given, latents, *more):
        seen.append(len(latents))
        return tail(self, given, latents, *more)

    monkeypatch.setattr(Decoder, "_run", counted)
    words = ("--size", 16, "--frames", 5, "--steps", 2, "--verifier", "compressibility", "--candidates", 3)
    folder, _ = run("a", "b", "--model", folders("wan"), *words, "--held-out", "none", "--images", 2)
    assert set(seen) == {1}
    assert len(list(folder.glob("*-best-2.mp4"))) == 2


def test_results_that_do_not_fit_are_decoded_one_by_one(monkeypatch):
    pipe = ZOO["wan"].build()
    tail, seen = Decoder._run, []

    def small(self, given, latents, *more):
        seen.append(len(latents))
        if len(latents) > 1:
            raise torch.cuda.OutOfMemoryError("full")
        return tail(self, given, latents, *more)

    monkeypatch.setattr(Decoder, "_run", small)
    output = library.scale(pipe, "best_of_n", candidates=1)(**ZOO["wan"].arguments(2))
    assert seen == [2, 1, 1]
    assert len(output.frames) == 2


def test_decoding_in_parts_is_switched_on_or_refused(folders, genscale, tmp_path):
    pipe = library.load_pipeline(str(folders("ltx")), vae_tiling=True, vae_slicing=True)
    assert (pipe.vae.use_tiling, pipe.vae.use_slicing, pipe.vae.use_framewise_decoding) == (True, True, True)
    pipe = library.load_pipeline(str(folders("wan")))
    assert not pipe.vae.use_tiling
    ZOO["kandinsky"].build().save_pretrained(tmp_path / "kandinsky")
    with pytest.raises(library.UsageError, match="no autoencoder that can do vae_tiling"):
        library.load_pipeline(str(tmp_path / "kandinsky"), vae_tiling=True)


def test_a_token_is_written_nowhere(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    folder, _ = run(CAPTIONS[0], "--candidates", 1, "--steps", 2, "--token", "hf_secretive")
    for path in folder.rglob("*"):
        assert path.is_dir() or b"hf_secretive" not in path.read_bytes()


def test_a_device_map_places_the_pipeline(genscale, folders, tmp_path):
    words = ("--size", 16, "--frames", 5, "--steps", 2, "--verifier", "compressibility", "--candidates", 2)
    words = ("x", "--model", folders("wan"), *words, "--held-out", "none", "--out")
    code, _, err = genscale("video", *words, tmp_path / "run", "--device-map", "cpu")
    assert code == 0, err
    code, _, err = genscale("video", *words, tmp_path / "other", "--device-map", "everywhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be loaded: everywhere not supported" in err


# ----------------------------------------------------------------------------------------- does it search?


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidates", "better"), [(8, True), (1, False)]
)  # the broken twin: a search of one
def test_searched_clips_beat_base_clips_by_the_exact_judge(run, tmp_path, candidates, better):
    """Best of 8 against the base clip of the same prompt, n = 120, the judge held out: beyond the 95 % interval."""
    (tmp_path / "captions.txt").write_text("\n".join(prompt.text for prompt in PROMPTS))
    words = ("--prompts", tmp_path / "captions.txt", "--candidates", candidates, "--batch-size", 64)
    _, record = run(*words, "--formats", "gif")
    verdicts = [
        [told[which]["held_out"]["moving_shapes"] for told in record["prompts"]] for which in ("base", "best")
    ]
    gain = np.subtract(*verdicts[::-1])
    assert len(gain) == 120
    assert bool(gain.mean() > 1.96 * gain.std(ddof=1) / math.sqrt(len(gain))) is better
