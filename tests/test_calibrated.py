"""Calibrated verifiers: levels of previews and finals on an exact law, the folder, and searches that use them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from genscale.engine.budget import Budget
from genscale.engine.ledger import Ledger
from genscale.engine.stopping import Stopped
from genscale.engine.tensor_files import save_tensors
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.media import Media
from genscale.numerics.probability_curve import calibration_error, reliability
from genscale.results.verifier_calibration import Labelled, Member, Reference, VerifierCalibration
from genscale.results.verifier_calibration_file import FILE, IMAGES, read
from genscale.runs import verifier_specs
from genscale.runs.request import Request
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.smc import Smc
from genscale.storage.identity import identity
from genscale.verifiers import calibrated
from genscale.verifiers.calibrated import Calibrated
from tests.analytic import first_coordinate, run

NOISES = (2.0, 1.0)
"""Standard deviation of a preview's score about the final one, at 1/3 and 2/3 of the run."""


def law(candidates: int, seed: int, prompts: int = 40) -> Labelled:
    """Final scores N(0, 1); right with probability sigmoid(3 s); previews are noisier scores."""
    g = np.random.default_rng(seed)
    finals = g.normal(size=candidates)
    right = (g.random(candidates) < expit(3 * finals)).astype(float)
    previews = np.stack([finals + noise * g.normal(size=candidates) for noise in NOISES])
    numbers = np.arange(candidates) * prompts // candidates
    texts = tuple(f"prompt {i}" for i in range(prompts))
    return Labelled((1 / 3, 2 / 3), previews[..., None], finals[:, None], right, numbers, texts, 6)


def preview_posterior(s: Any, noise: float) -> Any:
    """P(the finished one is right | its preview's score is s): the mean of sigmoid(3 f) under f | s, by quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(41)
    shrink = 1 / (1 + noise**2)
    f = shrink * s[:, None] + np.sqrt(1 - shrink) * x
    return (expit(3 * f) * w).sum(1) / w.sum()


def fitted(given: Labelled) -> VerifierCalibration:
    return VerifierCalibration.of(given, (Member("compressibility", {}, (), 1.0),), Reference("", ()))


@pytest.fixture(scope="module")
def known() -> VerifierCalibration:
    return fitted(law(4_000, 0))


def test_finals_and_previews_have_their_exact_posteriors(known: VerifierCalibration) -> None:
    fresh = law(2_000, 1)
    finals = known.probabilities(fresh.finals, [1.0] * 2_000)
    assert np.abs(finals - expit(3 * fresh.finals[:, 0])).mean() < 0.02
    for share, noise, scores in zip(fresh.progress, NOISES, fresh.previews, strict=True):
        p, exact = known.probabilities(scores, [share] * 2_000), preview_posterior(scores[:, 0], noise)
        assert np.abs(p - exact).mean() < 0.02
        as_final = known.probabilities(
            scores, [1.0] * 2_000
        )  # the broken twin: previews by the finals' curve
        assert np.abs(as_final - exact).mean() > 0.05


def test_probabilities_are_calibrated_on_other_prompts(known: VerifierCalibration) -> None:
    fresh = law(4_000, 2)
    for share, scores in [*zip(fresh.progress, fresh.previews, strict=True), (1.0, fresh.finals)]:
        p = known.probabilities(scores, [share] * 4_000)
        assert calibration_error(reliability(p, fresh.right)) < 0.03
    overconfident = known.probabilities(fresh.previews[0], [1.0] * 4_000)
    assert calibration_error(reliability(overconfident, fresh.right)) > 0.1


def test_between_levels_log_odds_are_interpolated_and_before_the_first_nothing_is_known(
    known: VerifierCalibration,
) -> None:
    scores = np.array([[0.7]] * 6)
    p = known.probabilities(scores, [0.0, 0.3, 1 / 3, 0.5, 2 / 3, 1.0])
    assert p[:2] == pytest.approx([known.base] * 2)
    levels = [float(level(scores[:1])[0]) for level in known.levels]
    assert [p[2], p[4], p[5]] == pytest.approx(levels)
    assert logit(p[3]) == pytest.approx((logit(levels[0]) + logit(levels[1])) / 2)


def test_the_table_holds_probabilities_of_curves_that_did_not_see_the_prompt() -> None:
    """Labels without any law: in sample an isotonic curve finds one, on held-out prompts there is none."""
    g = np.random.default_rng(3)
    given = law(400, 3)
    noise = Labelled(
        given.progress,
        given.previews,
        given.finals,
        g.integers(0, 2, 400).astype(float),
        given.prompts,
        given.texts,
        6,
    )
    found = fitted(noise)
    for level in found.quality():
        assert 0.4 < level["auc"] < 0.6
        assert level["ece"] < 0.12
    assert found.table.previews.shape == (400, 2)
    assert found.table.progress == (1 / 3, 2 / 3)


def test_two_verifiers_are_combined() -> None:
    """The second verifier sees another part of the truth: both together know more than one."""
    g = np.random.default_rng(4)
    right = (g.random(2_000) < 0.5).astype(float)
    scores = g.normal((2 * right - 1)[:, None], 1, (2_000, 2))
    prompts = np.arange(2_000) // 50
    texts = tuple(map(str, range(40)))

    def loss(columns: Any) -> float:
        given = Labelled((), np.zeros((0, 2_000, len(columns))), scores[:, columns], right, prompts, texts, 6)
        members = tuple(Member("compressibility", {}, (), 1.0) for _ in columns)
        return float(VerifierCalibration.of(given, members, Reference("", ())).quality()[0]["log_loss"])

    assert loss([0, 1]) < loss([0]) - 0.1
    assert loss([0, 0]) == pytest.approx(loss([0]), abs=0.005)  # a copy adds nothing


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"right": np.ones(40)}, "none of the 40 labelled candidates is wrong"),
        ({"right": np.zeros(40)}, "none of the 40 labelled candidates is right"),
        ({"prompts": np.zeros(40, dtype=np.int64)}, "at least 4 prompts, some to be held out, not 1"),
    ],
)
def test_labels_that_teach_nothing_are_refused(change: Any, why: str) -> None:
    given = law(40, 5)
    with pytest.raises(UsageError, match=why):
        fitted(Labelled(**(vars(given) | change)))


# ---------------------------------------------------------------- the folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A calibration of compressibility, with true reference images."""
    return write(tmp_path / "made", law(400, 6))


def write(where: Path, given: Labelled) -> Path:
    where.mkdir()
    pixels = torch.randint(
        0, 255, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    member, texts = Member("compressibility", {"quality": 50}, (0.0, 0.0), 0.1), ("a", "b")
    panel = calibrated.panel([member], None)
    scores = panel.score(Media(pixels.float() / 255), texts, texts, Ledger())[:, 0].tolist()
    member = Member("compressibility", {"quality": 50}, tuple(scores), 0.1)
    digest = save_tensors(where / IMAGES, {"pixels": pixels})
    found = VerifierCalibration.of(given, (member,), Reference(digest, texts), about={"model": "m"})
    (where / FILE).write_text(found.text())
    return where


def test_what_is_written_is_read(folder: Path) -> None:
    found, digest = read(folder)
    assert found.text() == (folder / FILE).read_text()
    assert len(digest) == 32


def test_it_scores_as_it_says(folder: Path) -> None:
    verifier = Calibrated(str(folder))
    media = Media(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    raw = verifier._panel.score(media, ["a"] * 3, ["a"] * 3, Ledger()).numpy()
    known = verifier.known
    assert verifier(media, ["a"] * 3).tolist() == pytest.approx(known.levels[-1](raw).tolist())
    at = verifier.score_at(media, ["a"] * 3, [0.1, 1 / 3, 1.0]).tolist()
    assert at == pytest.approx([known.base, known.levels[0](raw)[1], known.levels[2](raw)[2]])
    assert verifier.answers_probability
    assert verifier.calibration is known.table
    assert not verifier.judges_videos
    assert not verifier.remote


def test_verifiers_that_changed_are_refused(folder: Path) -> None:
    Calibrated(str(folder)).prepare(["a"], torch.device("cpu"))
    data = json.loads((folder / FILE).read_text())
    data["members"][0]["references"][1] += 0.004  # less than a twentieth of its spread
    (folder / FILE).write_text(json.dumps(data))
    Calibrated(str(folder)).prepare(["a"], torch.device("cpu"))
    data["members"][0]["options"] = {"quality": 90}  # another verifier
    (folder / FILE).write_text(json.dumps(data))
    with pytest.raises(UsageError, match="verifier 'compressibility' has changed since it was calibrated"):
        Calibrated(str(folder)).prepare(["a"], torch.device("cpu"))
    (folder / IMAGES).write_bytes(b"damaged")
    with pytest.raises(UsageError, match="missing or damaged"):
        Calibrated(str(folder)).prepare(["a"], torch.device("cpu"))


def _set(*path: Any, to: Any) -> Any:
    def change(data: Any) -> Any:
        at = data
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = to
        return data

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: [],
        lambda data: {"levels": [], "threshold": 0.5},  # of genscale calibrate-steps
        lambda data: {k: v for k, v in data.items() if k != "table"},
        _set("calibrates", to="steps"),
        _set("members", to=[]),
        _set("levels", to=[]),
        _set("levels", 0, "progress", to=0.9),
        _set("levels", 0, "progress", to=-0.1),
        _set("levels", -1, "progress", to=0.99),
        _set("levels", 0, "curves", to=[]),
        _set("levels", 0, "curves", 0, "kind", to="cubic"),
        _set("levels", 0, "curves", 0, "probabilities", 0, to=2.0),
        _set("levels", 0, "weights", to=[1.0, 1.0]),
        _set("levels", 0, "weights", to=[-1.0]),
        _set("levels", 0, "base", to=1.0),
        _set("table", "finals", 0, to=1.5),
        _set("table", "finals", to=[0.5]),
        _set("table", "previews", to=[[0.5]]),
        _set("table", "right", 0, to="yes"),
        _set("reference", "prompts", to=["a"]),
        _set("steps", to=0),
    ],
)
def test_a_damaged_file_is_refused(damage: Any, folder: Path) -> None:
    data = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(damage(data)))
    with pytest.raises(UsageError, match="is no calibration of verifiers") as caught:
        Calibrated(str(folder))
    assert "\n" not in str(caught.value)


def test_a_folder_that_names_a_server_is_refused(folder: Path) -> None:
    data = json.loads((folder / FILE).read_text())
    data["members"][0] |= {"verifier": "vlm_judge", "options": {"url": "http://h/v1", "key_from": "SOME_KEY"}}
    (folder / FILE).write_text(json.dumps(data))
    with pytest.raises(UsageError, match="names a server"):
        Calibrated(str(folder))


def test_folders_that_hold_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the folder of a calibration"):
        Calibrated(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="cannot be read"):
        Calibrated(str(tmp_path))
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        Calibrated(str(tmp_path))


def test_its_identity_is_its_content_wherever_it_lies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere" / "made")
    other = write(tmp_path / "other", law(400, 7))
    monkeypatch.chdir(tmp_path)
    here, there = Calibrated("made"), Calibrated("elsewhere/made")
    assert here.folder == str(folder)
    assert identity(here) == identity(there) != identity(Calibrated(str(other)))
    assert here.name == there.name == "calibrated(made)"


def test_it_is_named_on_the_command_line_by_its_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for spec in ("calibrated:made", f"calibrated:{folder}", "calibrated(folder=made)"):
        [(named, weight)] = verifier_specs.weighted_verifiers([spec])
        assert (named.name, weight, named.identity) == ("calibrated(made)", 1.0, Calibrated("made"))
        assert verifier_specs.needs_trust([spec]) == []
    request = Request(verifiers=("calibrated:made", "clip"), held_out=("calibrated(folder=made):2",))
    moved = request.anchored()
    assert moved.verifiers == (f"calibrated:{folder}", "clip")
    assert moved.held_out == (f"calibrated(folder={folder}):2",)
    assert Request(stop="patience:2,guard:calibrated:made:patience=1").anchored().stop == (
        f"patience:2,guard:calibrated:{folder}:patience=1"
    )


def test_verifiers_of_images_judge_the_frames_of_videos() -> None:
    panel = calibrated.panel([Member("compressibility", {}, (), 1.0)], 3)
    videos = Media(torch.rand(2, 5, 3, 8, 8))
    assert panel.members[0].verifier.judges_videos
    assert panel.score(videos, ["a", "b"], ["a", "b"], Ledger()).shape == (2, 1)


# ---------------------------------------------------------------- in a search


@pytest.fixture
def on_the_bed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Calibrated:
    """The law's calibration, of a verifier that reads the first coordinate."""
    first = VerifierSet((WeightedVerifier("first", first_coordinate),))
    monkeypatch.setattr(calibrated, "panel", lambda members, frames: first)
    return Calibrated(str(folder))


def test_a_search_ends_once_a_candidate_is_right_with_the_probability(on_the_bed: Calibrated) -> None:
    whole = run(BestOfN(64), verifier=on_the_bed).searches[0]
    raw = run(BestOfN(64)).searches[0]
    p = [float(e.total) for e in whole.finals]
    scores = np.array([[e.total] for e in raw.finals])
    assert p == pytest.approx(on_the_bed.known.probabilities(scores, [1.0] * 64).tolist())
    after = 1 + next(i for i, q in enumerate(p) if q >= 0.95)
    for text in ("p=0.95", "target=p=0.95"):
        search = run(BestOfN(wave=1), verifier=on_the_bed, budget=Budget.parse(f"600nfe,{text}")).searches[0]
        assert search.stopped == Stopped("p=0.95", after)
        assert [float(e.total) for e in search.finals] == p[:after]


def test_previews_are_scored_by_the_level_of_their_step(on_the_bed: Calibrated) -> None:
    found = run(BestOfN(4, previews=(1 / 3, 0.5)), verifier=on_the_bed)
    raw = run(BestOfN(4, previews=(1 / 3, 0.5)))
    for mine, theirs in zip(found.archive.entries, raw.archive.entries, strict=True):
        assert (mine.candidate, mine.step) == (theirs.candidate, theirs.step)
        wanted = on_the_bed.known.probabilities(np.array([[theirs.total]]), [mine.step / 6])
        assert mine.total == pytest.approx(float(wanted[0]))
    assert sorted({e.step for e in found.archive.entries}) == [3, 4, 6]  # after calls 2 and 3


def test_samplers_branch_by_probabilities(on_the_bed: Calibrated) -> None:
    ends = [run(Smc(particles=4), verifier=on_the_bed, batch_size=n).winners[0].total for n in (1, 16)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("members", [[(1.0, "plain")], [(2.0, "judge")], [(1.0, "judge"), (1.0, "plain")]])
def test_probabilities_are_asked_of_verifiers_that_answer_them(members: Any, on_the_bed: Calibrated) -> None:
    of = {"plain": first_coordinate, "judge": on_the_bed}
    search = VerifierSet(tuple(WeightedVerifier(name, of[name], weight) for weight, name in members))
    with pytest.raises(UsageError, match=r"p=0\.9 needs one verifier, without a weight, that answers prob"):
        run(BestOfN(4), roles=Roles(search), budget=Budget(probability=0.9))


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("p=0.9", Budget(probability=0.9)),
        ("target=p=0.9", Budget(probability=0.9)),
        ("480nfe, p = .95", Budget(nfe=480, probability=0.95)),
        ("p=0.9,target=0.35", Budget(target=0.35, probability=0.9)),
    ],
)
def test_budgets_of_probability_are_read(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget
    assert Budget.parse(str(budget)) == budget
    assert Budget(target="p=0.9") == Budget(probability=0.9)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["p=0", "p=1", "p=1.5", "p=-0.1", "p=x", "p=", "p=nan", "p=0.9,p=0.8"])
def test_budgets_of_no_probability_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Budget.parse(text)


def test_previews_of_best_of_n_change_no_candidate() -> None:
    """They only look: the same candidates with the same scores, at the same NFE."""
    plain, looked = run(BestOfN(8)), run(BestOfN(8, previews=(0.3, 0.6)))
    assert [(e.candidate, e.total) for e in looked.searches[0].finals] == [
        (e.candidate, e.total) for e in plain.searches[0].finals
    ]
    assert looked.ledger.evaluations == plain.ledger.evaluations
    assert [e.step for e in looked.archive.entries] == [3] * 8 + [5] * 8 + [6] * 8
    with pytest.raises(UsageError, match="give prune or previews, not both"):
        BestOfN(8, prune=(0.5,), previews=(0.5,))
