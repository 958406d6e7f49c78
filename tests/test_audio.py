"""Searches over sound: tiny Stable Audio and AudioLDM2 pipelines, from Python and on the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genscale as library
from genscale.errors import AllCandidatesFailed, UsageError
from genscale.media import Media
from genscale.media_items import Audio
from genscale.pipelines.loading import load_pipeline
from genscale.report.audio_files import read_audio
from genscale.verifiers.silence import Silence, levels
from tests.quick import quick
from tests.zoo_audio import AUDIO, RATE, SPEECH_RATE, clap, clap_features, roberta_tokenizer
from tests.zoo_kinds import KINDS

FAMILIES = ("stable_audio", "audioldm2")
pytestmark = pytest.mark.filterwarnings(
    "ignore:At least one mel filter", "ignore:`past_key_values` is deprecated", "ignore:.*weight_norm"
)


class Loudness:
    """The mean magnitude of a sound, and what it was asked about."""

    reads_prompts = False
    judges = ("audio",)

    def __init__(self) -> None:
        self.seen: list[Media] = []

    def __call__(self, media: Media, prompts: Any) -> torch.Tensor:
        self.seen.append(media.copied())
        return media.waveforms.abs().flatten(1).mean(1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {name: AUDIO[name].build() for name in AUDIO}


def loudness(sounds: Any) -> list[float]:
    return [float(x) for x in torch.as_tensor(np.asarray(sounds)).abs().flatten(1).mean(1)]


# ---------------------------------------------------------------- from Python


@pytest.mark.parametrize("name", FAMILIES)
def test_the_pipelines_hear_their_noise_and_their_prompts(pipes: dict[str, Any], name: str) -> None:
    """Else a search over them would mean nothing."""
    pipe, arguments = pipes[name], AUDIO[name].arguments(1)

    def sound(seed: int = 0, **changes: Any) -> np.ndarray:
        return np.asarray(pipe(**arguments | changes, generator=seeded(seed)).audios)

    assert np.array_equal(sound(), sound())
    assert np.abs(sound() - sound(1)).max() > 0.02
    assert np.abs(sound() - sound(prompt=["another thing"])).max() > 0.005
    assert 0.01 < np.abs(sound()).max() < 1.5


@pytest.mark.parametrize(
    "case", quick([f"{name} {n}" for name in AUDIO for n in (1, 2)], ["stable_audio 2", "audioldm2 1"])
)
def test_one_candidate_is_the_pipeline_alone(pipes: dict[str, Any], case: str) -> None:
    name, n = case.split()[0], int(case.split()[1])
    pipe, arguments = pipes[name], AUDIO[name].arguments(n)
    wanted = pipe(**arguments, generator=seeded()).audios
    verifier = Loudness()
    for judge in (None, verifier):
        output = library.scale(pipe, "best_of_n", judge, candidates=1)(**arguments, generator=seeded())
        assert type(output.audios) is type(wanted)
        assert np.array_equal(np.asarray(output.audios), np.asarray(wanted))
    seen = torch.cat([media.waveforms for media in verifier.seen])
    assert {media.sampling_rate for media in verifier.seen} == {AUDIO[name].rate}
    assert seen.shape == (n, 2 if name == "stable_audio" else 1, seen.shape[-1])
    assert np.allclose(seen.numpy().reshape(np.shape(wanted)), np.asarray(wanted), atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_best_of_n_returns_the_best_of_what_the_verifier_heard(pipes: dict[str, Any], name: str) -> None:
    verifier = Loudness()
    better = library.scale(pipes[name], "best_of_n", verifier, candidates=4, batch_size=3)
    output = better(**AUDIO[name].arguments(2), generator=seeded())
    result = output.search
    for prompt in range(2):
        scores = [e.scores["Loudness"] for e in result.searches[prompt].finals]
        assert len(set(scores)) == 4
        assert loudness(output.audios)[prompt] == pytest.approx(max(scores), rel=1e-4)
    media = result.media(result.ranking(1)[:1])
    assert (media.kind, media.sampling_rate) == ("audio", AUDIO[name].rate)
    assert loudness(media.waveforms) == pytest.approx(loudness(output.audios)[1:], rel=1e-4)


@pytest.mark.parametrize("name", quick(FAMILIES, ["audioldm2"]))
def test_smc_scores_previews_and_steers(pipes: dict[str, Any], name: str) -> None:
    verifier = Loudness()
    arguments = AUDIO[name].arguments(1) | {"num_inference_steps": 8}
    better = library.scale(pipes[name], "smc", verifier, candidates=4)
    result = better.search(**arguments, generator=seeded())
    assert len(result.searches[0].finals) == 4
    previews = [e for e in result.entries if not e.final]
    assert previews
    assert {media.kind for media in verifier.seen} == {"audio"}
    again = better.search(**arguments, generator=seeded())
    assert [e.scores for e in again.entries] == [e.scores for e in result.entries]


@pytest.mark.slow
def test_results_do_not_depend_on_how_many_are_computed_at_once(pipes: dict[str, Any]) -> None:
    scores = []
    for size, at_once in ((4, 4), (1, 1), (3, 2)):
        better = library.scale(
            pipes["stable_audio"],
            "best_of_n",
            Loudness(),
            candidates=4,
            batch_size=size,
            decode_batch=at_once,
        )
        result = better.search(**AUDIO["stable_audio"].arguments(1), generator=seeded())
        scores.append([e.scores["Loudness"] for e in result.searches[0].finals])
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)
    assert scores[2] == pytest.approx(scores[0], rel=1e-4)


def test_sounds_are_decoded_one_by_one_unless_told_otherwise(pipes: dict[str, Any]) -> None:
    for at_once, sizes in ((None, [1, 1, 1, 1]), (2, [2, 2])):
        verifier = Loudness()
        better = library.scale(pipes["audioldm2"], "best_of_n", verifier, candidates=4, decode_batch=at_once)
        better.search(**AUDIO["audioldm2"].arguments(1), generator=seeded())
        assert [len(media) for media in verifier.seen] == sizes


def test_several_waveforms_a_prompt(pipes: dict[str, Any]) -> None:
    better = library.scale(pipes["stable_audio"], "best_of_n", Loudness(), candidates=4)
    output = better(**AUDIO["stable_audio"].arguments(1), num_waveforms_per_prompt=3, generator=seeded())
    found = loudness(output.audios)
    assert len(found) == 3
    assert found == sorted(found, reverse=True)


def test_a_guard_rejects_what_is_too_silent(pipes: dict[str, Any]) -> None:
    """With a least share between the candidates' some are dropped; with one above all, the search says so."""
    pipe, arguments, heard = pipes["stable_audio_mono"], AUDIO["stable_audio_mono"].arguments(1), Loudness()
    library.scale(pipe, "best_of_n", heard, candidates=6).search(**arguments, generator=seeded())
    sounds = Media(torch.cat([media.waveforms for media in heard.seen]), "audio", RATE)
    threshold, window = float(levels(sounds.waveforms, RATE, 0.004).median()), 0.004
    shares = sorted(Silence(threshold, window)(sounds).tolist())
    assert shares[0] < shares[-1]
    least = (shares[0] + shares[-1]) / 2
    guarded = library.scale(
        pipe, "best_of_n", [Loudness(), (Silence(threshold, window, least), 0.0)], candidates=6
    )
    kept = guarded.search(**arguments, generator=seeded())
    assert len(kept.searches[0].finals) == sum(s >= least for s in shares) < 6
    assert {f.as_dict()["where"] for f in kept.dropped(0)} == {"verifier silence"}
    everything = library.scale(pipe, "best_of_n", Silence(threshold=0.0, least=1.0), candidates=2)
    with pytest.raises(AllCandidatesFailed, match="verifier silence"):
        everything.search(**arguments, generator=seeded())


def test_a_sound_that_is_not_finite_is_dropped(
    pipes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, calls = pipes["stable_audio_mono"], []
    decode = pipe.vae.decode

    def broken(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = decode(latents, *args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            found.sample[0, 0, 5] = math.nan
        return found

    monkeypatch.setattr(pipe.vae, "decode", broken)
    better = library.scale(pipe, "best_of_n", Loudness(), candidates=3)
    result = better.search(**AUDIO["stable_audio_mono"].arguments(1), generator=seeded())
    assert [f.as_dict()["where"] for f in result.dropped(0)] == ["decoder"]
    assert len(result.searches[0].finals) == 2


@pytest.mark.parametrize("role", ["verifier", "select", "held_out"])
def test_verifiers_of_images_are_refused_before_anything_is_spent(
    pipes: dict[str, Any], role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes["audioldm2"]
    for part in ("unet", "vae", "text_encoder", "vocoder"):
        monkeypatch.setattr(getattr(pipe, part), "forward", lambda *a, **k: pytest.fail("it was called"))
    given = {"verifier": Loudness()} | {role: "compressibility"}
    better = library.scale(pipe, "best_of_n", candidates=2, out=tmp_path / "run", **given)
    for call in (better, better.search, better.plan):
        with pytest.raises(
            UsageError, match="judges images and videos, and AudioLDM2Pipeline makes audio: use"
        ) as e:
            call(**AUDIO["audioldm2"].arguments(1), generator=seeded())
        assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_a_result_is_saved_and_loaded(pipes: dict[str, Any], tmp_path: Path) -> None:
    pipe, arguments = pipes["stable_audio"], AUDIO["stable_audio"].arguments(1)
    result = library.scale(pipe, "best_of_n", Loudness(), candidates=3, keep=3).search(
        **arguments, generator=seeded()
    )
    result.save(tmp_path / "run")
    wanted = result.media(result.ranking(0)[:1])
    best = read_audio(tmp_path / "run/best.wav")
    assert np.array_equal(best.waveform, wanted[0].waveform)  # type: ignore[union-attr]
    loaded = library.load_result(tmp_path / "run", pipe=pipe)
    media = loaded.media([loaded.best])
    assert (media.kind, media.sampling_rate) == ("audio", AUDIO["stable_audio"].rate)
    assert torch.allclose(media.waveforms, wanted.waveforms, atol=1e-6)
    assert loaded.sheet().width > 700


# ---------------------------------------------------------------- depth, normals and embeddings


class Anything:
    """Prefers small numbers."""

    reads_prompts = False

    def __init__(self, *kinds: str) -> None:
        self.judges, self.seen = kinds, set[tuple[str, tuple[int, ...]]]()

    def __call__(self, media: Media, prompts: Any) -> torch.Tensor:
        self.seen.add((media.kind, tuple(media.tensor.shape[1:])))
        return -media.tensor.float().abs().flatten(1).mean(1)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "file"),
    [
        ("depth", "depth", (1, 16, 16), "best.npz"),
        ("normals", "normals", (3, 16, 16), "best.npz"),
        ("prior", "embedding", (8,), "best.npz"),
    ],
)
def test_other_kinds_are_searched(name: str, kind: str, shape: Any, file: str, tmp_path: Path) -> None:
    build, arguments = KINDS[name]
    pipe, verifier = build(), Anything(kind)
    wanted = next(iter(pipe(**arguments(), generator=seeded()).values()))
    one = library.scale(pipe, "best_of_n", verifier, candidates=1)(**arguments(), generator=seeded())
    assert np.array_equal(np.asarray(next(iter(one.values()))), np.asarray(wanted))
    # Its loop joins the latents to those of the image outside the model, so that batches are of one.
    better = library.scale(pipe, "best_of_n", verifier, candidates=3, batch_size=1 if name != "prior" else 16)
    output = better(**arguments(), generator=seeded())
    assert verifier.seen == {(kind, shape)}
    finals = output.search.searches[0].finals
    assert len({e.scores["Anything"] for e in finals}) == 3
    output.search.save(tmp_path / "run")
    with np.load(tmp_path / "run" / file) as arrays:
        best = arrays[kind]
    assert np.allclose(best.squeeze(), np.asarray(next(iter(output.values()))).squeeze(), atol=1e-6)
    with Image.open(tmp_path / "run/contact.png") as sheet:
        assert sheet.width > 200


@pytest.mark.parametrize("name", ["depth", "normals"])
def test_a_kind_that_the_code_leaves_open_is_found_by_decoding_once(name: str, tmp_path: Path) -> None:
    build, arguments = KINDS[name]
    pipe = build()
    better = library.scale(pipe, "best_of_n", "compressibility", candidates=2, out=tmp_path / "run")
    made = {"depth": "depth maps", "normals": "maps of normals"}[name]
    with pytest.raises(UsageError, match=f"judges images and videos, and {type(pipe).__name__} makes {made}"):
        better(**arguments(), generator=seeded())
    assert not (tmp_path / "run").exists()


def test_several_items_of_one_latent_are_refused() -> None:
    build, arguments = KINDS["intrinsics"]
    better = library.scale(build(), "best_of_n", Anything("image", "depth", "normals"), candidates=1)
    with pytest.raises(UsageError, match="makes 2 images of 1 latents"):
        better(**arguments(), generator=seeded())


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, pipes: dict[str, Any]) -> Path:
    """Folders of the two pipelines and of a CLAP."""
    root = tmp_path_factory.mktemp("models")
    for name in FAMILIES:
        pipes[name].save_pretrained(root / name)
    for part in (clap(), clap_features(), roberta_tokenizer()):
        part.save_pretrained(root / "clap")
    return root


@pytest.fixture(scope="module")
def runs(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run `genscale audio` once for each family, and return the folder."""
    from genscale.cli.app import main

    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("runs") / name
            words = ["audio", "a dog barks", "--model", folders / name, "--steps", 3, "--seconds", 0.064]
            words += ["--batch-size", 1 if name == "stable_audio" else 3]
            words += ["--verifier", f"clap(checkpoint={folders / 'clap'})", "--candidates", 3, "--seed", 5]
            assert main([*map(str, words), "--formats", "wav,flac", "--out", str(folder), "--json"]) == 0
            made[name] = folder
        return made[name]

    return run


@pytest.mark.parametrize("name", quick(FAMILIES, ["audioldm2"]))
def test_audio_writes_sounds_that_are_the_pipeline_s_own(runs: Any, folders: Path, name: str) -> None:
    folder, pipe = runs(name), load_pipeline(str(folders / name))
    record = json.loads((folder / "run.json").read_text())
    [prompt] = record["prompts"]
    assert prompt["files"]["base"] == ["base.png", "base.wav", "base.flac"]
    assert set(prompt["best"]["held_out"]) == {"silence", "clipping"}
    base, best = (read_audio(folder / f"{stem}.wav") for stem in ("base", "best"))
    length = "audio_length_in_s" if name == "audioldm2" else "audio_end_in_s"
    wanted = pipe("a dog barks", num_inference_steps=3, generator=seeded(5), **{length: 0.064}).audios
    assert base.sampling_rate == AUDIO[name].rate
    found, wanted = base.waveform, np.asarray(wanted).reshape(base.waveform.shape)
    # Where candidates are denoised together, the last bits are rounded otherwise.
    assert np.array_equal(found, wanted) if name == "stable_audio" else np.allclose(found, wanted, atol=1e-5)
    assert best.waveform.shape == base.waveform.shape
    with Image.open(folder / "contact.png") as sheet:
        assert sheet.height > 600  # base, best and a runner-up below each other


FILES = [f"{name}/{file}" for name in FAMILIES for file in ("best.wav", "base.png", "best.flac")]


@pytest.mark.parametrize("case", quick(FILES, ["audioldm2/best.wav"]))
def test_replay_gives_the_same_samples(runs: Any, genscale: Any, tmp_path: Path, case: str) -> None:
    name, file = case.split("/")
    code, out, err = genscale("replay", runs(name) / file, "--out", tmp_path / file, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["same"], found["unit"], found["differing"]) == (
        True,
        "samples",
        0 if "wav" in file else None,
    )
    if "wav" in file:
        assert found["of"] == read_audio(runs(name) / file).waveform.size
        assert np.array_equal(read_audio(tmp_path / file).waveform, read_audio(runs(name) / file).waveform)


@pytest.mark.slow
def test_replay_counts_samples_that_differ(runs: Any, genscale: Any, tmp_path: Path) -> None:
    """The broken twin: three samples of the file are changed, its metadata is not."""
    from genscale.report.audio_files import comment_of, write_audio

    source = runs("audioldm2") / "best.wav"
    audio = read_audio(source)
    audio.waveform[0, :3] += 0.25
    write_audio(tmp_path / "a.wav", "wav", audio, comment_of(source))
    code, out, _ = genscale("replay", tmp_path / "a.wav")
    assert code == 3
    assert f"3 of {audio.waveform.size} samples differ, by at most 0.25" in out
    code, _, err = genscale("replay", tmp_path / "a.wav", "--out", tmp_path / "b.mp4")
    assert code == 2
    assert "must end in .png or .wav or .flac" in err


@pytest.mark.slow
def test_show_rescore_score_and_resume(runs: Any, genscale: Any, folders: Path) -> None:
    folder = runs("audioldm2")
    code, out, err = genscale("show", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["files"][0] == "contact.png"
    code, out, err = genscale(
        "rescore", folder, "--verifier", "silence(threshold=-45)", "--verifier", "clipping"
    )
    assert code == 0, err
    assert (folder / "rescore-silence-threshold-45-clipping.png").is_file()
    code, out, err = genscale("rescore", folder, "--verifier", "compressibility")
    assert (code, out) == (2, "")
    assert "judges images and videos, and the pipeline of this run makes audio" in err
    clap_spec = f"clap(checkpoint={folders / 'clap'})"
    words = ("--verifier", clap_spec, "--verifier", "clipping", "--json")
    code, out, err = genscale("score", folder / "best.wav", folder / "base.wav", folder / "best.flac", *words)
    assert code == 0, err
    best, base, flac = (row["scores"] for row in json.loads(out))
    record = json.loads((folder / "run.json").read_text())
    for scores, role in ((best, "best"), (base, "base")):
        assert scores[clap_spec] == pytest.approx(record[role]["search"][clap_spec], abs=1e-5)
    assert flac[clap_spec] == pytest.approx(best[clap_spec], abs=1e-3)
    code, out, err = genscale("score", folder / "best.wav", "--verifier", "compressibility", "--prompt", "a")
    assert (code, out) == (2, "")
    assert "best.wav' holds audio" in err
    before = (folder / "best.wav").read_bytes()
    assert genscale("resume", folder)[0] == 0
    assert (folder / "best.wav").read_bytes() == before


@pytest.mark.slow
def test_what_makes_no_audio_is_refused(genscale: Any, folders: Path, tmp_path: Path) -> None:
    for words, says in (
        (("audio", "a dog"), "no model of sounds comes with genscale: name one"),
        (("audio", "a dog", "--model", "shapes-flow"), "no model of sounds comes with genscale"),
        (("video", "a dog", "--model", folders / "audioldm2"), "which makes audio: use `genscale audio`"),
        (("generate", "a dog", "--model", folders / "audioldm2"), "judges images and videos"),
        (
            ("audio", "a dog", "--model", folders / "audioldm2", "--seconds", 0),
            "--seconds 0.0 must be at least 0.01",
        ),
        (
            ("audio", "a dog", "--model", folders / "audioldm2", "--formats", "ogg"),
            "--formats 'ogg' is unknown",
        ),
        (("audio", "a dog", "--model", folders / "audioldm2", "--frames", 3), "takes no num_frames"),
    ):
        code, out, err = genscale(*words, "--out", tmp_path / "run")
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert says in err
    assert not (tmp_path / "run").exists()


def test_flac_without_soundfile_is_refused_before_the_model_is_loaded(
    genscale: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "soundfile", None)
    words = ("--model", tmp_path / "no model", "--formats", "flac", "--out", tmp_path / "run")
    code, _, err = genscale("audio", "a dog", *words)
    assert code == 2
    assert "pip install 'genscale[audio]'" in err


def test_items_of_an_audio_search_are_sounds(pipes: dict[str, Any]) -> None:
    result = library.scale(pipes["audioldm2"], "best_of_n", Loudness(), candidates=2).search(
        **AUDIO["audioldm2"].arguments(1), generator=seeded()
    )
    [item] = result.media(result.ranking(0)[:1])
    assert isinstance(item, Audio)
    assert (item.sampling_rate, item.seconds) == (SPEECH_RATE, 0.064)
