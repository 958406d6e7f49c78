"""`genscale calibrate`: noise, scale and agreement of scores, against what they are by construction."""

import json
import math

import numpy as np
import pytest
import torch

from genscale.engine.verifier_roles import WeightedVerifier
from genscale.errors import UsageError
from genscale.numerics.score_noise import noise_of, within
from genscale.protocol.calibration import scale_of
from genscale.results.score_calibration import FILE, measured, read
from genscale.results.verifier_calibration import Member
from genscale.runs import verifier_specs
from genscale.verifiers.harmless_changes import CHANGES, changed, compressed, cropped, harmless, mirrored
from genscale.verifiers.measured import Measured

# ---------------------------------------------------------------- noise


def test_within_is_the_pooled_deviation_of_the_groups():
    values, groups = np.array([1.0, 3.0, 10.0, 10.0, 16.0, 7.0]), np.array([0, 0, 1, 1, 1, 2])
    assert within(values, groups) == pytest.approx(math.sqrt((1 + 1 + 4 + 4 + 16) / (1 + 2)))
    assert within(values[-1:], groups[-1:]) is None


def drawn(noise_sd, shift=0.0, prompts=150, each=8, alike=0.0):
    """Scores = quality + noise, and again after a change that draws the noise anew and adds `shift`.

    alike: spread of a part of the change that all candidates of a prompt have in common.
    """
    rng = np.random.default_rng(5)
    numbers, n = np.repeat(np.arange(prompts), each), prompts * each
    quality = rng.standard_normal(n) + np.repeat(3 * rng.standard_normal(prompts), each)
    scores, again = (quality + noise_sd * rng.standard_normal(n) for _ in range(2))
    return scores, again + shift + np.repeat(alike * rng.standard_normal(prompts), each), numbers


@pytest.mark.parametrize(
    ("noise_sd", "shift", "alike"), [(0.5, 0.0, 0.0), (0.5, -2.0, 0.0), (0.2, 0.0, 4.0), (0.0, 1.0, 0.0)]
)
def test_noise_is_found_whatever_all_candidates_have_in_common(noise_sd, shift, alike):
    scores, again, prompts = drawn(noise_sd, shift, alike=alike)
    found, changes = noise_of(scores, {"jpeg": again}, prompts)
    assert found == pytest.approx(noise_sd, abs=0.05 * noise_sd + 1e-9)
    assert changes["jpeg"].images == len(scores)
    if not alike:
        assert changes["jpeg"].shift == pytest.approx(shift, abs=0.1)


def test_the_plain_deviation_of_the_difference_would_be_wrong():
    scores, again, prompts = drawn(0.2, alike=4.0)
    assert np.std(again - scores) / math.sqrt(2) > 5 * noise_of(scores, {"jpeg": again}, prompts)[0]


def test_what_was_not_changed_does_not_count():
    scores, again, prompts = drawn(0.5)
    some, none = np.where(np.arange(len(again)) % 8 < 4, again, np.nan), np.full_like(again, np.nan)
    found, changes = noise_of(scores, {"jpeg": again, "flip": some, "crop": none}, prompts)
    assert set(changes) == {"jpeg", "flip"}
    assert changes["flip"].images == len(again) // 2
    assert found**2 == pytest.approx((changes["jpeg"].noise_sd ** 2 + changes["flip"].noise_sd ** 2) / 2)
    assert noise_of(scores, {"crop": none}, prompts) == (None, {})


def test_scale_and_agreement_of_two_verifiers():
    scores, again, prompts = drawn(0.5)
    both, after = np.stack([scores, -2 * scores + 7], 1), np.stack([again, -2 * again + 7], 1)
    members = [Member.unscored(name, {}) for name in ("clip", "other")]
    (one, two), (pair,) = measured(("clip", "other"), members, both, {"jpeg": after}, prompts)
    assert (one.mean, one.sd) == (pytest.approx(scores.mean()), pytest.approx(scores.std(ddof=1)))
    assert two.scale.noise_sd == pytest.approx(2 * one.scale.noise_sd)
    assert two.noise_share == pytest.approx(one.noise_share)
    assert one.noise_share == pytest.approx(0.25 / 1.25, abs=0.03)
    assert (pair.rho, pair.prompts) == (pytest.approx(-1), 150)


# ---------------------------------------------------------------- changes


def test_changes_keep_shape_range_and_nearly_the_image():
    ramp = torch.linspace(0, 1, 64).expand(2, 3, 64, 64).clone()
    for change in CHANGES:
        for pixels in (ramp, ramp[:, None].expand(2, 4, 3, 64, 64)):
            found = changed(change, pixels)
            assert found.shape == pixels.shape
            assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(mirrored(ramp)[..., 0], ramp[..., -1])
    assert (cropped(ramp) - ramp).abs().max() < 0.03
    assert 0 < (compressed(ramp) - ramp).abs().max() < 0.03


def test_a_mirror_matters_where_the_prompt_speaks_of_sides_or_of_a_text():
    sides = ("a star left of a ring", "the Right hand", "turns clockwise")
    for prompt in (*sides, 'a sign that says "OPEN"', "a sign, 'OPEN'"):
        assert not harmless("flip", prompt), prompt
        assert harmless("crop", prompt)
    for prompt in ("a red star above a ring", "a bright light", "leftovers", "the dog's bone"):
        assert harmless("flip", prompt), prompt


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from genscale.cli.app import main

    out = tmp_path_factory.mktemp("scales") / "made"
    verifiers = ["--verifier", "shapes_clip", "--verifier", "compressibility"]
    words = [*verifiers, "--candidates", "3", "--steps", "2", "--seed", "1", "--json", "--out"]
    assert main(["calibrate", "a red star", "a red star left of a blue ring", *words, str(out)]) == 0
    return out


def test_the_folder_holds_what_the_scores_of_the_candidates_are(folder):
    found, _ = read(folder)
    assert [s.name for s in found.scores] == ["shapes_clip", "compressibility"]
    clip = found.of("shapes_clip")
    assert clip.changes["crop"].images == clip.changes["jpeg"].images == 6
    assert clip.changes["flip"].images == 3  # not of the prompt with a left
    assert clip.noise > 0
    assert found.agreement[0].prompts == 2
    data = json.loads((folder / FILE).read_text())
    assert json.loads(found.text()) == data
    assert {"genscale", "torch"} <= set(data["about"]["versions"])


def test_a_measured_verifier_scores_as_before_and_says_its_scale(folder):
    spec = f"measured(folder={folder},verifier=shapes_clip)"
    [(verifier, weight)] = verifier_specs.weighted_verifiers([spec + ":2"])
    assert weight == 2
    assert verifier.name == verifier_specs.scored_as(spec) == "measured(shapes_clip)"
    known = read(folder)[0].of("shapes_clip")
    assert scale_of(verifier) == known.scale
    assert WeightedVerifier("x", verifier).column.noise == known.noise
    pixels, texts = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), ["a red star"] * 2
    plain = verifier_specs.weighted_verifiers(["shapes_clip"])[0][0]
    assert torch.equal(verifier.score_tensor(pixels, texts), plain.score_tensor(pixels, texts))
    verifier.prepare(["a red star"], torch.device("cpu"))
    assert verifier_specs.anchored(spec) == spec
    assert verifier.backbone == "shapes-clip"


def test_another_verifier_than_the_one_that_was_measured_is_refused(folder, tmp_path):
    data = json.loads((folder / FILE).read_text())
    data["scores"][0]["member"]["references"][0] += 1
    (tmp_path / FILE).write_text(json.dumps(data))
    (tmp_path / "reference.safetensors").write_bytes((folder / "reference.safetensors").read_bytes())
    with pytest.raises(UsageError, match="has changed since it was measured"):
        Measured(str(tmp_path), "shapes_clip").prepare(["a red star"], torch.device("cpu"))


def test_what_cannot_be_used_is_refused(folder, tmp_path, refused):
    with pytest.raises(UsageError, match="measured shapes_clip and compressibility: name one"):
        Measured(str(folder))
    with pytest.raises(UsageError, match=r"measured no verifier 'shape_clip'.*shapes_clip"):
        Measured(str(folder), "shape_clip")
    data = json.loads((folder / FILE).read_text())
    data["scores"][0]["sd"] = -1.0
    (tmp_path / FILE).write_text(json.dumps(data))
    with pytest.raises(UsageError, match="below 0"):
        Measured(str(tmp_path), "shapes_clip")
    assert "too few" in refused("calibrate", "a red star", "--candidates", "1")
    assert "holds a calibration already" in refused("calibrate", "a red star", "--out", str(folder))
