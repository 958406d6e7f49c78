"""Verifiers of sound: silence and clipping in closed form, CLAP against transformers' own code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genscale.engine.judged_kinds import all_judge, check_judges, judged_kinds
from genscale.engine.verifier_roles import Roles, verifier_set
from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.clap import Clap, pieces, resampled
from genscale.verifiers.clipping import Clipping
from genscale.verifiers.silence import Silence, levels
from tests.zoo_audio import SPEECH_RATE, clap, clap_features, roberta_tokenizer

RATE = 8000


def media(*waveforms: Any, rate: int = RATE) -> Media:
    """Mono sounds."""
    return Media(
        torch.stack([torch.as_tensor(w, dtype=torch.float32) for w in waveforms])[:, None], "audio", rate
    )


def sine(seconds: float, frequency: float = 400.0, amplitude: float = 1.0) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)


# ---------------------------------------------------------------- silence


def test_levels_of_a_sine_and_of_a_square_wave() -> None:
    both = media(sine(0.4), sine(0.4).sign().where(sine(0.4) != 0, torch.ones(1)), sine(0.4, amplitude=0.01))
    found = levels(both.waveforms, RATE, 0.02)
    assert found.shape == (3, 1, 20)
    for row, decibels in zip(found, (10 * math.log10(0.5), 0.0, 10 * math.log10(0.5) - 40), strict=True):
        assert row.flatten().tolist() == pytest.approx([decibels] * 20, abs=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_silence_is_the_share_of_windows_that_are_loud(share: float) -> None:
    wave = sine(1.0, amplitude=0.1)
    wave[round(share * RATE) :] = 0
    assert Silence()(media(wave)).tolist() == [share]


def test_the_threshold_is_in_decibels_of_full_scale() -> None:
    quiet = media(sine(0.2, amplitude=10 ** (-57 / 20)))  # a sine of -57 dB has a level of -60.01 dB
    assert Silence(threshold=-60.0)(quiet).tolist() == [0.0]
    assert Silence(threshold=-60.1)(quiet).tolist() == [1.0]


def test_one_loud_channel_is_enough_and_a_last_window_counts_what_it_has() -> None:
    wave = torch.zeros(1, 2, 260)
    wave[0, 1, 160:] = 0.5  # windows of 160: the second has 100 samples, all of them loud
    assert Silence()(Media(wave, "audio", RATE)).tolist() == [0.5]
    assert levels(wave, RATE, 0.02)[0, 1].tolist() == pytest.approx([-300, 20 * math.log10(0.5)])


def test_what_is_too_silent_is_rejected() -> None:
    wave = sine(1.0)
    wave[RATE // 5 :] = 0
    assert Silence(least=0.2)(media(wave)).tolist() == [0.2]
    assert Silence(least=0.21)(media(wave)).tolist() == [-math.inf]


# ---------------------------------------------------------------- clipping


@pytest.mark.parametrize("cut", [0, 1, 250, 1000])
def test_clipping_is_the_share_of_samples_at_full_scale(cut: int) -> None:
    wave = torch.full((1000,), 0.99)
    wave[:cut] = torch.tensor([1.0, -1.0, 2.5, -0.999]).repeat(250)[:cut]
    assert Clipping()(media(wave)).tolist() == pytest.approx([1 - cut / 1000])


def test_a_sine_that_is_cut_off() -> None:
    """Of a sine of amplitude a, the share 1 - 2/pi asin(1/a) is beyond full scale."""
    for amplitude in (1.5, 3.0):
        found = Clipping(level=1.0)(media(sine(1.0, 397.0, amplitude).clamp(-1, 1)))
        assert found.item() == pytest.approx(2 / math.pi * math.asin(1 / amplitude), abs=5e-3)


def test_all_channels_count_and_too_much_is_rejected() -> None:
    wave = torch.zeros(1, 2, 100)
    wave[0, 1, :50] = 1.0
    sounds = Media(wave, "audio", RATE)
    assert Clipping()(sounds).tolist() == [0.75]
    assert Clipping(most=0.25)(sounds).tolist() == [0.75]
    assert Clipping(most=0.2)(sounds).tolist() == [-math.inf]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Silence(threshold=1),
        lambda: Silence(window=0),
        lambda: Silence(least=2),
        lambda: Clipping(level=0),
        lambda: Clipping(most=-1),
    ],
)
def test_settings_out_of_range(make: Any) -> None:
    with pytest.raises(UsageError, match=r": give .*\.$"):
        make()


# ---------------------------------------------------------------- CLAP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CLAP with random weights, as it is saved."""
    path = tmp_path_factory.mktemp("clap")
    for part in (clap(), clap_features(), roberta_tokenizer()):
        part.save_pretrained(path)
    return str(path)


PROMPTS = ["a dog barks", "rain"]


def noise(seconds: float, n: int = 2, channels: int = 1, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n, channels, round(seconds * SPEECH_RATE), generator=draw)


def reference(waveforms: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Cosines by the forward of ClapModel itself, for sounds [n, samples] that are not too long."""
    model, features, tokenizer = clap(), clap_features(), roberta_tokenizer()
    heard = features(list(waveforms.numpy()), sampling_rate=SPEECH_RATE, return_tensors="pt")
    words = tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**heard, input_ids=words.input_ids, attention_mask=words.attention_mask)
    return (found.audio_embeds * found.text_embeds).sum(-1)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
class TestClap:
    def test_it_is_the_cosine_of_transformers(self, folder: str) -> None:
        sounds = noise(0.7)
        found = Clap(folder)(Media(sounds, "audio", SPEECH_RATE), PROMPTS)
        assert torch.allclose(found, reference(sounds[:, 0], PROMPTS), atol=1e-6)
        assert (found - found.flip(0)).abs().max() > 1e-3

    def test_channels_are_averaged(self, folder: str) -> None:
        stereo = noise(0.5, channels=2)
        found = Clap(folder)(Media(stereo, "audio", SPEECH_RATE), PROMPTS)
        assert torch.allclose(found, reference(stereo.mean(1), PROMPTS), atol=1e-6)

    def test_other_rates_are_resampled(self, folder: str) -> None:
        """A sine sampled at two rates is nearly the same sound; taken for another rate it is not."""
        verifier, scores = Clap(folder), {}
        for rate in (SPEECH_RATE, 44100):
            time = torch.arange(round(0.5 * rate)) / rate
            sounds = Media(torch.sin(2 * math.pi * 700 * time).expand(1, 1, -1), "audio", rate)
            scores[rate] = verifier(sounds, ["a"]).item()
        wrong = verifier(Media(sounds.waveforms, "audio", SPEECH_RATE), ["a"]).item()
        assert abs(scores[44100] - scores[SPEECH_RATE]) < 0.2 * abs(wrong - scores[SPEECH_RATE])

    def test_a_long_sound_has_the_same_score_whatever_was_drawn(self, folder: str) -> None:
        """The extractor of transformers crops a long sound at random, from numpy's global generator."""
        sounds, verifier, found = Media(noise(2.3), "audio", SPEECH_RATE), Clap(folder), []
        for seed in (0, 1):
            np.random.seed(seed)
            before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
            found.append(verifier(sounds, PROMPTS))
            assert (np.random.get_state()[1] == before).all()  # type: ignore[index]
        assert torch.equal(*found)

    def test_a_long_sound_is_the_mean_of_its_pieces(self, folder: str) -> None:
        sounds, model, verifier = noise(1.5, n=1), clap(), Clap(folder)
        parts = [sounds[0, 0, :SPEECH_RATE], sounds[0, 0, -SPEECH_RATE:]]
        heard = clap_features()([p.numpy() for p in parts], sampling_rate=SPEECH_RATE, return_tensors="pt")
        words = roberta_tokenizer()(["rain"], return_tensors="pt")
        with torch.no_grad():
            audio = model.get_audio_features(**heard).pooler_output
            text = model.get_text_features(**words).pooler_output
        wanted = F.normalize(audio.mean(0), dim=-1) @ F.normalize(text[0], dim=-1)
        assert verifier(Media(sounds, "audio", SPEECH_RATE), ["rain"]).item() == pytest.approx(
            wanted.item(), abs=1e-6
        )

    def test_neither_batch_size_nor_company_matters(self, folder: str) -> None:
        sounds, prompts = noise(1.2, n=3), ["a", "b", "a"]
        together = Clap(folder)(Media(sounds, "audio", SPEECH_RATE), prompts)
        for size in (1, 4):
            verifier = Clap(folder, batch_size=size)
            alone = [verifier(Media(sounds[i : i + 1], "audio", SPEECH_RATE), [prompts[i]]) for i in range(3)]
            assert torch.allclose(torch.cat(alone), together, atol=1e-6)

    def test_a_long_prompt_is_cut_and_weights_are_shared(self, folder: str) -> None:
        sounds = Media(noise(0.3), "audio", SPEECH_RATE)
        assert Clap(folder)(sounds, ["word " * 200, "b"]).isfinite().all()
        first, second = Clap(folder), Clap(folder, batch_size=3)
        assert first._model(torch.device("cpu")) is second._model(torch.device("cpu"))

    @pytest.mark.usefixtures("offline")
    def test_what_is_missing_is_refused_in_a_sentence(self, folder: str, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for checkpoint, says in (
            ("/no/such", "there is no folder"),
            (str(tmp_path / "empty"), "cannot be loaded"),
            ("owner/name", "cannot be loaded"),
        ):
            with pytest.raises(UsageError, match=says) as error:
                Clap(checkpoint).prepare(["a"], torch.device("cpu"))
            assert str(error.value).endswith(".")
        from safetensors.torch import load_file, save_file

        weights = load_file(Path(folder) / "model.safetensors")
        weights.pop("audio_projection.linear1.weight")
        for file in Path(folder).iterdir():
            (tmp_path / "empty" / file.name).write_bytes(file.read_bytes())
        save_file(weights, tmp_path / "empty" / "model.safetensors")
        with pytest.raises(UsageError, match="not a whole CLAP: 1 of its weights"):
            Clap(str(tmp_path / "empty")).load()


def test_pieces_cover_a_sound_evenly() -> None:
    samples = np.arange(25)
    assert [p.tolist() for p in pieces(samples, 30)] == [samples.tolist()]
    found = pieces(samples, 10)
    assert [(int(p[0]), len(p)) for p in found] == [(0, 10), (8, 10), (15, 10)]
    assert set(np.concatenate(found)) == set(range(25))


def test_resampling_keeps_a_sine() -> None:
    time = np.arange(4410) / 44100
    found = resampled(np.sin(2 * np.pi * 500 * time).astype(np.float32), 44100, 16000)
    wanted = np.sin(2 * np.pi * 500 * np.arange(len(found)) / 16000)
    assert len(found) == 1600
    assert np.abs(found - wanted)[100:-100].max() < 1e-2


# ---------------------------------------------------------------- what verifiers declare


class Judge:
    def __init__(self, *kinds: str) -> None:
        self.judges = kinds

    def __call__(self, media: Any, prompts: Any) -> Any:
        return [0.0] * len(prompts)


class Wrapper:
    def __init__(self, verifier: Any) -> None:
        self.verifier = verifier

    def __call__(self, media: Any, prompts: Any) -> Any:
        return self.verifier(media, prompts)


def test_verifiers_judge_images_and_videos_unless_they_say_otherwise() -> None:
    assert judged_kinds(lambda media, prompts: []) == {"image", "video"}
    assert judged_kinds(Judge("audio", "text")) == {"audio", "text"}
    assert judged_kinds(Wrapper(Judge("mesh"))) == {"mesh"}
    assert judged_kinds(Silence()) == judged_kinds(Clipping()) == judged_kinds(Clap()) == {"audio"}


def test_each_role_is_checked() -> None:
    fine, other = verifier_set(Judge("audio"), "weighted"), verifier_set(Judge("depth", "image"), "weighted")
    check_judges(Roles(fine, fine, fine, fine), {"audio"})
    for role in ("search", "select", "held_out", "guard"):
        with pytest.raises(
            UsageError, match="'Judge' judges images and depth maps, and this pipeline makes audio"
        ):
            check_judges(Roles(**{"search": fine, role: other}), {"audio"})
    check_judges(Roles(other), {"audio", "depth"})
    assert not all_judge(Roles(other), {"audio", "depth"})
    assert all_judge(Roles(other), {"image", "depth"})
    assert all_judge(Roles(), {"mesh"})


def test_the_refusal_names_verifiers_that_would_do() -> None:
    with pytest.raises(
        UsageError, match="use clap, clipping, silence, or one of your own that declares"
    ) as error:
        check_judges(Roles(verifier_set("compressibility", "weighted")), {"audio"})
    assert str(error.value).count(". ") == 0
    with pytest.raises(UsageError, match="use another, such as clip"):
        check_judges(Roles(verifier_set("silence", "weighted")), {"image", "video"})
    with pytest.raises(UsageError, match=r"one of your own that declares judges = \('mesh',\)"):
        check_judges(Roles(verifier_set("silence", "weighted")), {"mesh"})


@pytest.mark.parametrize("kinds", ["audio", (), ("sound",), 3])
def test_kinds_that_are_none(kinds: Any) -> None:
    judge = Judge()
    judge.judges = kinds
    with pytest.raises(UsageError, match="must be kinds of media: some of image, video, audio"):
        judged_kinds(judge)
