"""Calibration: the statistics against counts by hand, the measurement on the exact bed, and the command."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tests.analytic as bed
from genscale.cli.app import main
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.numerics.rank_correlation import Agreement, agreement, kept
from genscale.pipelines.loading import folder_of
from genscale.plugins import registry
from genscale.results import calibrated_options
from genscale.results.calibration import CalibratedStep, Calibration, Previews
from genscale.results.result import SearchResult
from genscale.samplers.best_of_n import BestOfN

STEPS = 6


def measured(n: int = 8, **settings: Any) -> Calibration:
    """A calibration on the bed."""
    return Calibration.of(searched(n, **settings))


def searched(n: int, **settings: Any) -> SearchResult:
    made = bed.run(Previews(n), steps=STEPS, batch_size=64, **settings)
    return SearchResult(
        tuple(made.searches), tuple(made.archive.entries), made.ledger, Budget(), 0, lambda e: None
    )


def told(scores: np.ndarray) -> Any:
    """A verifier that gives scores [prompts, steps, candidates] whatever it sees, in the engine's order."""
    order = iter(scores.transpose(1, 0, 2).ravel().tolist())
    return lambda media, prompts: [next(order) for _ in prompts]


def column(found: Calibration, name: str) -> list[Any]:
    return [getattr(level.agreement, name) for level in found.levels]


# ---------------------------------------------------------------- statistics


def test_rank_correlation_with_ties_by_hand() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5."""
    found = agreement(np.array([[1.0, 2, 2, 3]]), np.array([[10.0, 20, 30, 40]]))
    assert found.rho == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert (found.low, found.high, found.prompts, found.left_out) == (None, None, 1, 0)


def test_the_mean_over_prompts_and_its_interval_by_hand() -> None:
    """Correlations 1, 1 and 0.5 of three prompts; Student's t with 2 degrees of freedom is 4.303 at 97.5 %."""
    early = np.array([[1.0, 2, 3], [3, 4, 9], [1, 3, 2]])
    found = agreement(early, np.array([[1.0, 2, 3]] * 3))
    assert found.rho == pytest.approx(2.5 / 3)
    assert found.low == pytest.approx(
        2.5 / 3 - 4.30265 * np.std([1, 1, 0.5], ddof=1) / math.sqrt(3), abs=1e-4
    )
    assert found.high == 1.0  # no correlation is above


def test_the_top_quarter_by_hand() -> None:
    early = np.array([8.0, 7, 6, 5, 4, 3, 2, 1])  # candidates 0 to 3 survive
    final = np.array([9.0, 0, 0, 0, 1, 2, 8, 3])  # 0 and 6 are the top quarter
    assert kept(early, final) == 0.5
    assert kept(early, early) == 1.0
    assert kept(early, -early) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_equals_count_as_the_mean_over_their_orders(seed: int) -> None:
    g = np.random.default_rng(seed)
    early, final = g.integers(0, 3, 5).astype(float), g.integers(0, 3, 5).astype(float)

    def best(scores: np.ndarray, places: int) -> list[set[int]]:
        orders = permutations(range(5))
        return [set(sorted(range(5), key=lambda i: (-scores[i], p[i]))[:places]) for p in orders]

    shares = [len(a & b) / 2 for a in best(early, 3) for b in best(final, 2)]
    assert kept(early, final) == pytest.approx(np.mean(shares))


def test_prompts_whose_scores_are_all_equal_are_left_out_and_counted() -> None:
    early = np.array([[1.0, 2, 3, 4], [5, 5, 5, 5], [1, 2, 3, 4]])
    final = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [7, 7, 7, 7]])
    found = agreement(early, final)
    assert (found.rho, found.kept, found.prompts, found.left_out) == (1.0, 1.0, 1, 2)
    assert agreement(early[1:2], final[1:2]) == Agreement(None, None, None, None, 0, 1)


# ---------------------------------------------------------------- the measurement


def test_every_step_is_scored_and_nothing_is_evaluated_twice() -> None:
    result = searched(5, prompts=2, guided=2)
    steps = [e.step for e in result.entries if e.prompt == 1]
    assert sorted(steps) == sorted(list(range(1, STEPS + 1)) * 5)
    process = result.searches[0].process
    assert result.ledger.evaluations == 2 * Previews(5).cost(process) == 2 * 5 * STEPS * 2


def test_candidates_are_those_of_best_of_n() -> None:
    ours = {e.candidate.id: e.total for e in searched(5).entries if e.final}
    theirs = {e.candidate.id: e.total for e in bed.run(BestOfN(5), steps=STEPS).archive.entries}
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_levels_say_where_in_the_run_they_are() -> None:
    found = measured()
    assert [v.step for v in found.levels] == [1, 2, 3, 4, 5]
    assert [v.fraction for v in found.levels] == pytest.approx([i / STEPS for i in range(STEPS - 1)])
    assert [v.time for v in found.levels] == pytest.approx([1 - i / STEPS for i in range(STEPS - 1)])


def test_a_schedule_that_cannot_be_read_has_no_times() -> None:
    result = searched(4)
    search = result.searches[0]
    search.process = replace(search.process, view="nobody can read this")
    assert [v.time for v in Calibration.of(result).levels] == [None] * (STEPS - 1)


def test_previews_that_rank_as_the_final_pictures_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one Gaussian, the clean estimate and the flow are increasing maps of each coordinate. Only the first
    call, on pure noise, gives the mean to all: up to rounding there is nothing to rank."""
    one = bed.Mixture(torch.tensor([[0.3, 0, 0]]), 0.5)
    monkeypatch.setattr(bed, "Mixture", lambda: one)
    found = measured(16, prompts=3)
    assert column(found, "rho")[1:] == pytest.approx([1.0] * 4)
    assert column(found, "kept")[1:] == [1.0] * 4
    assert found.window() == (pytest.approx(1 / STEPS), 1.0)


def test_a_mixture_decides_late() -> None:
    """Which component a latent goes to is open at first and settled at last."""
    found = measured(16, prompts=20)
    rho = column(found, "rho")
    assert column(found, "left_out") == [20, 0, 0, 0, 0]  # the mean of the mixture, for all
    assert rho[1] < rho[-1] > 0.95


def chance(found: Calibration, candidates: int) -> bool:
    """Whether correlations are those of independent scores: mean 0, variance 1 / (N - 1) for each prompt."""
    return all(
        abs(v.agreement.rho or 0) < 4 / math.sqrt((candidates - 1) * v.agreement.prompts)
        for v in found.levels
    )


def random_scores(leak: float) -> np.ndarray:
    scores = np.random.default_rng(5).normal(size=(30, STEPS, 8))
    scores[:, :-1] += leak * scores[:, -1:]
    return scores


def test_independent_scores_correlate_by_chance_only() -> None:
    found = measured(8, prompts=30, verifier=told(random_scores(leak=0.0)))
    assert chance(found, 8)
    inside = [v.agreement.low <= 0 <= v.agreement.high for v in found.levels]
    assert sum(inside) >= 4  # five intervals of 95 %: two or more miss with probability 0.02
    sd = math.sqrt(0.25 * (1 - 1 / 7) / 2)  # of the share of 2 among 4 of 8, hypergeometric
    assert all(abs(k - 0.5) < 4 * sd / math.sqrt(30) for k in column(found, "kept"))
    assert found.window() == (1.0, 1.0)


def test_the_check_of_chance_sees_a_leak() -> None:
    """The broken twin: previews that know a third of the answer."""
    assert not chance(measured(8, prompts=30, verifier=told(random_scores(leak=0.33))), 8)


def test_the_table_is_that_of_the_scores() -> None:
    """Each number goes to its prompt, step and candidate."""
    scores = np.random.default_rng(1).integers(0, 4, (3, STEPS, 6)).astype(float)
    scores[1, 2] = 1.0  # one prompt without a ranking at step 3
    found = measured(6, prompts=3, verifier=told(scores))
    for level in found.levels:
        assert level.agreement == agreement(scores[:, level.step - 1], scores[:, -1])
    assert column(found, "left_out")[2] == 1


def test_a_rank_ensemble_compares_within_one_step() -> None:
    from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier

    def other(media: Any, prompts: Any) -> Any:
        return 1000 * media.pixels[:, 0, 0, 0].double()

    roles = Roles(
        VerifierSet(
            (WeightedVerifier("first", bed.first_coordinate), WeightedVerifier("other", other)), "rank"
        )
    )
    assert column(measured(8, roles=roles), "rho") == pytest.approx(column(measured(8), "rho"))


def test_a_run_of_one_step_is_refused() -> None:
    with pytest.raises(UsageError, match="1 step has no previews"):
        bed.run(Previews(4), steps=1)


# ---------------------------------------------------------------- window, file


def calibration(*rhos: float | None, threshold: float = 0.5) -> Calibration:
    n = len(rhos) + 1
    levels = [
        CalibratedStep(i, (i - 1) / n, 1 - (i - 1) / n, Agreement(rho, rho, rho, 0.5, 3, 0))
        for i, rho in enumerate(rhos, 1)
    ]
    return Calibration(tuple(levels), threshold, {"model": "m", "verifiers": ["v"], "prompts": ["a", "b"]})


@pytest.mark.parametrize(
    ("rhos", "start"),
    [
        ((0.1, 0.2, 0.6), 0.5),
        ((0.6, 0.7, 0.8), 0.0),
        ((0.9, 0.2, 0.5), 0.5),  # once trusted is not enough: it must stay; and the threshold itself counts
        ((0.1, None, 0.9), 0.5),
        ((0.9, 0.9, 0.4), 1.0),
        ((None, None, None), 1.0),
    ],
)
def test_the_window_begins_where_rho_stays(rhos: tuple[float | None, ...], start: float) -> None:
    assert calibration(*rhos).window() == (start, 1.0)


def test_the_window_of_another_threshold() -> None:
    found = calibration(0.3, 0.6, 0.9, threshold=0.8)
    assert [found.window(t)[0] for t in (None, 0.5, 0.2, 0.95)] == [0.5, 0.25, 0.0, 1.0]
    for wrong in (0.0, -0.5, 1.1, math.nan):
        with pytest.raises(UsageError, match="is out of range: give a rank correlation"):
            calibration(0.3, threshold=wrong)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    found = replace(measured(prompts=2), threshold=0.7, about={"model": "bed", "prompts": ["a", "b"]})
    for written in (found, calibration(None, 0.2, 1.0)):
        written.save(tmp_path / "calibration.json")
        assert Calibration.load(tmp_path / "calibration.json") == written
        assert Calibration.load(str(tmp_path)) == written


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", '{"levels": 3, "threshold": 0.5, "window": []}',
                                  '{"levels": [{"step": 1}], "threshold": 0.5, "window": []}'])  # fmt: skip
def test_other_files_are_no_calibration(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UsageError, match=r"other\.json' is not a calibration"):
        Calibration.load(tmp_path / "other.json")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        Calibration.load(tmp_path / "nowhere.json")


# ---------------------------------------------------------------- samplers take it


@dataclass(frozen=True)
class Windowed:
    """A sampler with a window."""

    window: tuple[float, float] = (0.0, 1.0)


@pytest.fixture
def windowed(monkeypatch: pytest.MonkeyPatch) -> str:
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda k, name: Windowed if name == "windowed" else load(k, name))
    return "windowed"


LATE, EARLY, NEVER = calibration(0.1, 0.2, 0.4, 0.9, 0.9), calibration(0.6, 0.9), calibration(0.1, 0.1)


def test_a_window_is_set(windowed: str) -> None:
    assert calibrated_options.fields(LATE, windowed, {}) == {"window": (pytest.approx(3 / 6), 1.0)}


def test_rungs_before_the_window_move_into_it() -> None:
    moved = calibrated_options.fields(LATE, "successive_halving", {})["rungs"]
    count = len(registry.options(registry.load("sampler", "successive_halving"))["rungs"].default)
    assert moved == pytest.approx([3 / 6 + i / 2 / count for i in range(count)])
    registry.make("sampler", "successive_halving", {"rungs": moved})  # they are rungs


@pytest.mark.parametrize(
    ("sampler", "field"),
    [("beam", "levels"), ("dlbs", "levels"), ("dfs", "checks"), ("accept_reject", "checks")],
)
def test_samplers_with_a_word_of_their_own_look_no_earlier(sampler: str, field: str) -> None:
    """What `every` step of a run of these steps is, has its place in the window too."""
    moved = calibrated_options.fields(LATE, sampler, {})[field]
    assert min(moved) >= 3 / 6 - 1e-9
    assert list(moved) == sorted(set(moved))
    assert max(moved) < 1
    registry.make("sampler", sampler, {field: moved})


def test_every_step_is_none_of_pure_noise() -> None:
    """Where all previews are trusted the window begins at 0, which is no level of a beam."""
    assert calibrated_options.fields(calibration(0.6, 0.9, 0.9), "dlbs", {}) == {"levels": (0.25, 0.5)}


@pytest.mark.parametrize("name", [*registry.found("sampler")])
def test_a_sampler_is_calibrated_or_refused(name: str) -> None:
    """Whatever the default of its field is."""
    with suppress(UsageError):
        registry.make("sampler", name, calibrated_options.fields(LATE, name, {}))


def test_rungs_within_the_window_stay() -> None:
    rungs = registry.options(registry.load("sampler", "successive_halving"))["rungs"].default
    assert calibrated_options.fields(EARLY, "successive_halving", {"survivors": "0.3"}) == {"rungs": rungs}


@pytest.mark.parametrize("found", [LATE, NEVER])
def test_what_the_user_says_wins(windowed: str, found: Calibration) -> None:
    assert calibrated_options.fields(found, windowed, {"window": "0.1,0.9"}) == {}
    assert calibrated_options.fields(found, "successive_halving", {"rungs": "0.1"}) == {}


def test_samplers_without_previews_and_calibrations_without_trust_are_refused() -> None:
    for sampler in ("best_of_n", "zero_order"):
        with pytest.raises(UsageError, match=f"sampler '{sampler}' has no window to calibrate"):
            calibrated_options.fields(LATE, sampler, {})
    with pytest.raises(UsageError, match="trusts no preview"):
        calibrated_options.fields(NEVER, "successive_halving", {})


# ---------------------------------------------------------------- the command

embedded = pytest.mark.skipif(
    not (folder_of("shapes-flow") / "model_index.json").is_file(), reason="not trained yet"
)
FAST = ("--steps", 4, "--candidates", 4, "--seed", 1, "--device", "cpu")


@pytest.fixture
def genscale(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command: (exit code, stdout, stderr)."""

    def run(*words: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@embedded
def test_calibrate_then_generate(genscale: Any, tmp_path: Path) -> None:
    out, prompts = tmp_path / "calibrated", tmp_path / "prompts.txt"
    prompts.write_text("three green circles\n")
    code, shown, err = genscale(
        "calibrate-steps", "a red star", "--prompts", prompts, *FAST, "--threshold", 0.3, "--out", out
    )
    assert code == 0, err
    assert {p.name for p in out.iterdir()} == {"calibration.json", "calibration.png"}
    with Image.open(out / "calibration.png") as picture:
        assert min(picture.size) > 400
    found = Calibration.load(out)
    assert found.about["prompts"] == ["a red star", "three green circles"]
    assert (found.about["model"], found.about["verifiers"]) == ("shapes-flow", ["shapes_clip"])
    assert (found.about["candidates"], found.about["steps"], found.about["seed"]) == (4, 4, 1)
    assert found.about["ledger"]["evaluations"] == 2 * 4 * 4 * 2
    assert found.about["ledger"]["verifier_calls"] == {"shapes_clip": 2 * 4 * 4}
    assert [v.fraction for v in found.levels] == [0.0, 0.25, 0.5]
    assert (found.threshold, "mean rho" in shown) == (0.3, True)
    again = (
        "calibrate-steps",
        "a red star",
        "three green circles",
        *FAST,
        "--json",
        "--out",
        tmp_path / "again",
    )
    printed = json.loads(genscale(*again)[1])
    assert printed.pop("folder") == str(tmp_path / "again")
    assert printed == json.loads((tmp_path / "again/calibration.json").read_text())
    assert Calibration.load(tmp_path / "again").levels == found.levels  # the seed decides all
    code, _, err = genscale("calibrate-steps", "a red star", *FAST, "--out", out)
    assert (code, "holds a calibration already" in err) == (2, True)

    calibration(0.1, 0.2, 0.9).save(tmp_path / "late.json")
    words = (
        "generate",
        "a red star",
        "--sampler",
        "successive_halving",
        "--calibration",
        tmp_path / "late.json",
    )
    planned = json.loads(genscale(*words, "--dry-run", "--json")[1])
    assert planned["sampler"]["rungs"][0] == 0.5
    planned = json.loads(genscale(*words, "--rungs", "0.3", "--dry-run", "--json")[1])
    assert planned["sampler"]["rungs"] == [0.3]


BAD = {
    "few candidates": (["--candidates", "3"], "at least 4 candidates"),
    "threshold": (["--threshold", "0"], "a threshold of 0.0 is out of range"),
    "one step": (["--steps", "1"], "1 step has no previews"),
    "option": (["--neighbours", "3"], "option '--neighbours' is unknown"),
    "verifier": (["--verifier", "clipp"], "did you mean 'clip'"),
    "model": (["--model", "shapes-flo"], "did you mean 'shapes-flow'"),
    "size": (["--size", "large"], "--size 'large' cannot be read"),
    "empty prompt": ([""], "there is no prompt"),
    "prompt file": (["--prompts", "nowhere.txt"], "prompt file 'nowhere.txt' cannot be read"),
}


@embedded
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    case: str, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, sentence = BAD[case]
    assert sentence in refused("calibrate-steps", "a red star", "--out", "some/run", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--calibration", "nowhere.json", "--sampler", "successive_halving"],
            "'nowhere.json' cannot be read",
        ),
        (["--calibration", "late.json"], "sampler 'best_of_n' has no window to calibrate"),
        (["--calibration", "never.json", "--sampler", "successive_halving"], "trusts no preview"),
    ],
)
def test_generate_refuses(
    words: list[str], sentence: str, genscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    LATE.save("late.json")
    NEVER.save("never.json")
    code, _, err = genscale("generate", "a red star", *words)
    assert (code, err.count("\n"), sentence in err) == (2, 1, True)


def test_an_interrupt_leaves_nothing(genscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genscale.runs import prepared_run

    def interrupted(*parts: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared_run, "load_model", interrupted)
    assert genscale("calibrate-steps", "a red star", "--out", tmp_path / "run")[0] == 130
    assert list(tmp_path.iterdir()) == []
