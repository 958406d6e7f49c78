"""Learned previews: the best predictor of a linear-Gaussian law, self-distillation, the folder, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.learned_previews_page import page
from genscale.commands.train_preview import Head
from genscale.commands.tune_previews import Tuning
from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.numerics.ridge import Linear, chosen_ridge, ridges
from genscale.pipelines.loading import folder_of
from genscale.results.verifier_calibration import Member, Reference
from genscale.runs import verifier_specs
from genscale.storage.identity import identity
from genscale.verifiers.compressibility import Compressibility
from genscale.verifiers.learned_preview import LearnedPreview
from genscale.verifiers.learned_preview_file import FILE, IMAGES, WEIGHTS, Learned, PreviewLevel, write
from genscale.verifiers.reference_images import eight_bit, with_references
from tests.doc_blocks import ROOT

embedded = pytest.mark.skipif(not folder_of("shapes-flow").is_dir(), reason="the toy model is not there")

# ---------------------------------------------------------------- the law

MIX = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -0.7], [0.3, 0.0, 1.0]])
SCORE, NOISE = np.array([0.8, -0.5, 0.3]), 0.7


def law(n: int, seed: int) -> tuple[Any, Any, Any]:
    """Features of previews [n, 3], final scores [n], and E[final score | preview] [n].

    A candidate is z ~ N(0, 1); the preview shows MIX z with noise, the final score is SCORE . z.
    """
    g = np.random.default_rng(seed)
    z = g.normal(size=(n, 3))
    seen = z @ MIX.T + NOISE * g.normal(size=(n, 3))
    best = np.linalg.solve(MIX @ MIX.T + NOISE**2 * np.eye(3), MIX @ SCORE)
    return seen, z @ SCORE, seen @ best


def error(fitted_to: Any, finals: Any) -> float:
    """Root mean square distance from the best predictor, on new candidates, in units of its standard deviation."""
    found = chosen_ridge(fitted_to, finals, np.arange(len(finals)) // 50)
    seen, _, best = law(2_000, 1)
    return float(np.sqrt(np.square(found.predictor(seen) - best).mean()) / best.std())


def test_the_head_finds_the_best_predictor_of_the_final_score() -> None:
    seen, finals, _ = law(4_000, 0)
    assert error(seen, finals) < 0.06
    assert error(np.roll(seen, 1, axis=0), finals) > 0.8  # the broken twin: previews of other candidates
    assert error(seen, seen @ SCORE) > 0.2  # and one that predicts the score of the preview itself


def test_what_it_says_of_itself_holds_for_prompts_that_it_was_not_fitted_to() -> None:
    seen, finals, best = law(4_000, 2)
    head = Head.of(seen, finals, np.arange(4_000) // 50)
    assert head.explained(finals) == pytest.approx(
        1 - np.square(finals - best).mean() / finals.var(), abs=0.01
    )
    # 200 features of nothing: in sample they explain half, held out nothing.
    g = np.random.default_rng(3)
    nothing, some = g.normal(size=(400, 200)), finals[:400]
    [loose] = ridges(nothing, some, [1e-6])
    assert np.square(loose(nothing) - some).mean() < 0.7 * some.var()
    assert Head.of(nothing, some, np.arange(400) // 20).explained(some) < 0.1


def test_ridge_against_its_normal_equations() -> None:
    seen, finals, _ = law(200, 4)
    seen = np.column_stack([seen * [1, 100, 0.01], np.full(200, 3.0)])
    for penalty, found in zip((1e-6, 0.3), ridges(seen, finals, (1e-6, 0.3)), strict=True):
        standard = (seen[:, :3] - seen[:, :3].mean(0)) / seen[:, :3].std(0)
        gram = standard.T @ standard / 200 + penalty * np.eye(3)
        weights = np.linalg.solve(gram, standard.T @ finals / 200)
        assert found(seen) == pytest.approx(finals.mean() + standard @ weights)
        assert found.weights[3] == 0


# ---------------------------------------------------------------- self-distillation


class Brightness:
    """A verifier whose network is linear in the pixels [n, 3, 2, 2]."""

    def preview_answers(self, network: nn.Module, pixels: Tensor) -> Tensor:
        answers: Tensor = network(10 * (pixels.flatten(1) - 0.5))
        return answers

    def preview_loss(self, answers: Tensor, wanted: Tensor) -> Tensor:
        return (answers - wanted).square().mean()


@pytest.mark.slow
def test_a_tuned_copy_comes_near_the_best_predictor_of_the_frozen_network() -> None:
    """Previews are the finished pictures in noise of the same strength: the best answer is linear in them."""
    g = np.random.default_rng(5)
    z = g.normal(size=(2_000, 12)) * 0.1
    noisy = z + 0.1 * g.normal(size=z.shape)
    finals, previews = (
        torch.from_numpy(((x + 0.5).clip(0, 1) * 255).round()).byte().reshape(-1, 3, 2, 2) for x in (z, noisy)
    )
    network = nn.Linear(12, 1).requires_grad_(False)
    network.weight[:], network.bias[:] = 0.03 * torch.tensor([1.0, -1.0] * 6), 0.0
    tuning = Tuning(Brightness(), 4, Key.from_seed(3))
    wanted = tuning.wanted(network, finals)
    best = float(wanted.var() * 0.5)  # the squared correlation of a pixel with its preview is 1/2

    def missed(partners: Tensor) -> float:
        made = tuning.tuned(network, previews[:1_500], partners[:1_500], lambda line: None)
        return distance(tuning.wanted(made, previews[1_500:]))

    def distance(answers: Tensor) -> float:
        return float((answers - wanted[1_500:]).square().mean())

    assert missed(wanted) < 1.15 * best
    assert missed(wanted.roll(1, 0)) > 1.5 * best  # the broken twin: answers of other candidates
    assert distance(tuning.wanted(network, previews[1_500:])) > 1.5 * best  # untuned
    assert torch.equal(tuning.wanted(network, finals), wanted)  # the verifier's own network is as it was


# ---------------------------------------------------------------- the folder


def pictures(n: int, seed: int) -> Media:
    """Images of growing roughness."""
    noise = torch.from_numpy(np.random.default_rng(seed).random((n, 3, 16, 16))).float()
    return Media(0.5 + (noise - 0.5) * torch.linspace(0.1, 1, n).reshape(-1, 1, 1, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A learned preview of compressibility: at 1/4 of the run 2 s + 1, at 1/2 of it s - 1."""
    from genscale.engine.tensor_files import save_tensors
    from genscale.verifiers.reference_images import panel

    where = tmp_path / "made"
    where.mkdir()
    member = Member("compressibility", {}, (), 1.0)
    pixels, again = eight_bit(pictures(2, 0))
    digest = save_tensors(where / IMAGES, {"pixels": pixels})
    finals = np.array([[0.0], [1.0]])
    [member] = with_references([member], panel([member], None), again, ["a", "b"], finals)
    levels = (
        PreviewLevel(0.25, Linear(np.array([2.0]), 1.0)),
        PreviewLevel(0.5, Linear(np.array([1.0]), -1.0)),
    )
    found = Learned(member, levels, Reference(digest, ("a", "b")), 4, None, {"levels": []})
    write(found, lambda name, writer: writer(where / name))
    return where


def test_finished_images_get_the_own_score_and_previews_that_of_the_nearest_level(folder: Path) -> None:
    verifier, media = LearnedPreview(str(folder)), pictures(5, 1)
    verifier.prepare(["a"] * 5, torch.device("cpu"))
    own = torch.as_tensor(Compressibility()(media, ["a"] * 5)).double()
    found = verifier.score_at(media, ["a"] * 5, [1.0, 0.25, 0.5, 0.1, 0.9])
    wanted = [own[0], 2 * own[1] + 1, own[2] - 1, 2 * own[3] + 1, own[4] - 1]
    assert found.tolist() == pytest.approx([float(w) for w in wanted])
    assert verifier(media, ["a"] * 5).tolist() == pytest.approx(own.tolist())


def test_it_is_named_and_the_same_from_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for spec in ("learned_preview:made", f"learned_preview:{folder}", "learned_preview(folder=made)"):
        [(named, weight)] = verifier_specs.weighted_verifiers([spec])
        assert (named.name, weight) == ("learned_preview(made)", 1.0) == (verifier_specs.scored_as(spec), 1.0)
        assert identity(named.identity) == identity(LearnedPreview(str(folder)))
        assert verifier_specs.anchored(spec) == f"learned_preview:{folder}"


def test_a_calibration_keeps_to_the_content(folder: Path) -> None:
    verifier = LearnedPreview(str(folder))
    assert LearnedPreview(str(folder), **verifier.pinned).identity == verifier.identity
    with pytest.raises(UsageError, match="holds another learned preview than the one that was calibrated"):
        LearnedPreview(str(folder), digest="0")


def test_a_changed_verifier_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Compressibility.__call__
    monkeypatch.setattr(
        Compressibility, "__call__", lambda self, media, texts=(): own(self, media, texts) + 1
    )
    with pytest.raises(UsageError, match="'compressibility' has changed since it was learned of in"):
        LearnedPreview(str(folder)).prepare(["a"], torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"levels": []}, "is no learned preview"),
        ({"levels": [0.5, 0.25]}, "no increasing shares of a run"),
        ({"learned": "steps"}, "it holds none"),
        ({"weights": "0"}, "are missing or damaged"),
        ({"reference": {"digest": "", "prompts": []}}, "do not belong to its verifier"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, change: dict[str, Any], why: str) -> None:
    data = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(data | change))
    with pytest.raises(UsageError, match=why):
        LearnedPreview(str(folder))


def test_a_folder_of_something_else_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="is not the folder of a learned preview"):
        LearnedPreview("nowhere")
    (folder / WEIGHTS).unlink()
    with pytest.raises(UsageError, match="are missing or damaged: restore them"):
        LearnedPreview(str(folder))


# ---------------------------------------------------------------- the command

PROMPTS = ("a red star", "two blue rings", "three green circles", "a purple square and a red ring")


@embedded
@pytest.mark.slow
def test_train_then_search_and_calibrate(genscale: Any, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "early"
    words = ("--steps", "4", "--seed", "1", "--model", "shapes-flow")
    size = ("--sampler", "best_of_n", "--candidates", "4", "--previews", "0,0.25,0.5")
    assert genscale("generate", *PROMPTS, *words, *size, "--verifier", "shapes_clip", "--out", run)[0] == 0
    code, shown, _ = genscale("train-preview", run, "--verifier", "shapes_attributes", "--out", out, "--json")
    told = json.loads(shown)
    assert (code, [level["progress"] for level in told["levels"]]) == (0, [0.25, 0.5, 0.75])
    assert (told["candidates"], told["prompts"]) == (16, 4)
    assert genscale("train-preview", run, "--verifier", "shapes_attributes", "--out", out)[0] == 2
    spec = f"learned_preview:{out}"
    code, shown, _ = genscale(
        "calibrate-verifier", *PROMPTS, *words, "--candidates", "4", "--verifier", spec, "--judge", "shapes",
        "--out", tmp_path / "sure", "--json",
    )  # fmt: skip
    assert code == 0
    search = (
        "--verifier",
        f"calibrated:{tmp_path / 'sure'}",
        "--budget",
        "4images",
        "--sampler",
        "accept_reject",
    )
    assert genscale("generate", PROMPTS[0], *words, *search, "--out", tmp_path / "found")[0] == 0


@embedded
@pytest.mark.slow
def test_what_cannot_be_learned_from_is_refused(genscale: Any, tmp_path: Path) -> None:
    words = ("--steps", "4", "--seed", "1", "--model", "shapes-flow", "--candidates", "2")
    run = tmp_path / "run"
    assert genscale("generate", *PROMPTS[:2], *words, "--sampler", "best_of_n", "--out", run)[0] == 0
    for given, why in (
        ((run, "--verifier", "shapes_attributes"), "keeps no previews to learn from"),
        ((tmp_path, "--verifier", "shapes_attributes"), str(tmp_path)),
        ((run, "--verifier", "calibrated:x"), "was learned itself"),
        ((run, "--verifier", "shapes_clip", "--tune", "1"), "offers no network to tune"),
        ((run, "--verifier", "shapes_attributes", "--tune", "-1"), "is no number of passes"),
    ):
        code, _, err = genscale("train-preview", *given, "--out", tmp_path / "out")
        assert (code, why in err) == (2, True), err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- what was measured


def test_the_tables_in_the_docs_are_those_of_the_results() -> None:
    text = (ROOT / "docs" / "explanation" / "what-pays.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "benchmarks" / "results" / "learned-previews-flow-4.json").read_text())
    assert page([record]) in text
    for gain in record["gains"]:
        own, learned = (
            row
            for word in ("own", "learned")
            for row in record["rows"]
            if row["name"] == f"{gain['sampler']}, {gain['images']} images, {word}"
        )
        difference = np.subtract(learned["right"], own["right"])
        assert (gain["right"], len(difference)) == (pytest.approx(difference.mean()), record["n"])
