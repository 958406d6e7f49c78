"""A fraction of the run means the same model call with every sampler that scores previews."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genscale.algorithms import preview_steps
from genscale.engine.process import PromptProcess
from genscale.media import Media
from genscale.plugins import registry
from genscale.protocol.interfaces import SamplerHooks
from genscale.results import calibrated_options
from genscale.results.calibration import Calibration
from genscale.samplers.fkc import Fkc
from genscale.samplers.importance import Importance
from genscale.samplers.smc import Smc
from genscale.samplers.successive_halving import SuccessiveHalving
from tests.analytic import SAMPLERS, Mixture, first_coordinate, process_of, run
from tests.quick import quick
from tests.test_calibration import LATE, STEPS, searched

LEVELLED = ("survivors", "branch", "diversity", "reject")  # options that may have one value for each level


def place_of_previews(sampler: Any) -> str:
    """The field that holds the fractions at which a sampler scores previews; "" if it has none."""
    known = {f.name for f in fields(sampler)}
    names = ("window", "rungs", SamplerHooks.of(type(sampler)).previews_at, "prune")
    found = next((n for n in names if n in known), "")
    return "previews" if found == "prune" and sampler.previews else found


def at(sampler: Any, fraction: float) -> Any:
    """The sampler with one preview, at this fraction (with a `window` it is the first), and without look-ahead."""
    place, known = place_of_previews(sampler), {f.name for f in fields(sampler)}
    one = {f: v[:1] for f in known - {place} if isinstance(v := getattr(sampler, f), tuple) and f in LEVELLED}
    ahead = {"lookahead": 1} if "lookahead" in known else {}
    return replace(sampler, **{place: (fraction, 1.0) if place == "window" else (fraction,)} | one | ahead)


def calls_of_previews(sampler: Any, steps: int) -> list[int]:
    """The model calls (from 0) whose clean estimates were scored as previews, in order; -1: of none.

    Read off the numbers alone: the verifier sees latents, and each is looked up among the model's clean estimates.
    """
    made: list[tuple[int, torch.Tensor]] = []
    scored: list[torch.Tensor] = []

    def on_batch(batch: Any, rows: Any) -> None:
        t = process_of(steps)["solver"].times[batch.step] if batch.time is None else batch.time
        made.append((batch.step, Mixture().clean(batch.x.detach(), t)))

    def verifier(media: Any, prompts: Any) -> torch.Tensor:
        scored.extend(media.pixels[:, :, 0, 0].detach().double())
        return first_coordinate(media, prompts)

    verifier.score_tensor = lambda pixels, prompts: verifier(Media(pixels), prompts)  # type: ignore[attr-defined]
    run(sampler, steps=steps, verifier=verifier, on_batch=on_batch)
    found = []
    for x in scored:
        nearest = [(float((x0 - x).norm(dim=1).min()), step) for step, x0 in made]
        gap, step = min(nearest)
        found.append(step if gap < 1e-4 else -1)
    return found


def comparable(name: str) -> bool:
    """Whether a sampler of the table scores previews at fractions of the pipeline's grid, one model call a step."""
    sampler = SAMPLERS[name]
    finished_only = isinstance(sampler, Fkc | Importance) or getattr(sampler, "reject", ()) is None
    if finished_only or getattr(sampler, "levels", "") == "rbf":
        return False
    kernels = [str(getattr(sampler, f, "")) for f in ("kernel", "rest")]
    return bool(place_of_previews(sampler)) and not any("glass" in k for k in kernels)


NAMES = [n for n in SAMPLERS if comparable(n)]
QUICK = ("best_of_n pruned", "successive_halving", "smc", "fk_steering", "tds", "gradient_guidance", "svdd",
         "rollover", "dfs", "beam", "dlbs")  # fmt: skip


def test_who_is_compared() -> None:
    """All that have such a field, so that a new sampler is compared as well."""
    placed = {type(s) for s in SAMPLERS.values() if place_of_previews(s)}
    assert placed - {type(SAMPLERS[n]) for n in NAMES} == {Fkc, Importance}


@pytest.mark.parametrize("name", quick(NAMES, QUICK))
@pytest.mark.parametrize("where", quick([(0.5, 8), (0.4, 6), (0.3, 10)], [(0.5, 8), (0.4, 6)]))
def test_one_fraction_is_one_model_call(name: str, where: tuple[float, int]) -> None:
    fraction, steps = where
    assert calls_of_previews(at(SAMPLERS[name], fraction), steps)[0] == round(fraction * steps)


def test_the_check_sees_a_rung_at_the_call_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: how it was once."""
    monkeypatch.setattr(preview_steps, "after_preview", lambda step: step)
    assert calls_of_previews(at(SuccessiveHalving(9), 0.5), 8)[0] == 3


@pytest.mark.parametrize("steps", [2, 3, 4, 7, 8, 28, 50])
def test_steps_of_a_run(steps: int) -> None:
    process = PromptProcess(**process_of(steps))
    for call in range(steps):
        found = preview_steps.fraction_of(preview_steps.after_preview(call), steps)
        assert preview_steps.step_at(process, found) == call
    assert list(preview_steps.steps_between(process, (0.0, 1.0))) == list(range(steps))
    assert Smc(window=(0.5, 1.0), interval=0.0).scoring_steps(process) == [
        s for s in range(1, steps - 1) if s >= round(steps / 2)
    ]


@pytest.mark.parametrize("name", ["smc", "successive_halving", "beam", "dfs"])
def test_a_calibration_begins_where_it_measured(name: str) -> None:
    """The first call whose previews are trusted is the first that the calibrated sampler scores."""
    options = calibrated_options.fields(LATE, name, ())  # trusted from call 3 of 6 on
    sampler = registry.make("sampler", name, options)
    assert min(calls_of_previews(sampler, STEPS)) == 3


def test_a_calibration_of_before_is_read_by_its_steps(tmp_path: Path) -> None:
    """Fractions were once those of the calls done."""
    found = Calibration.of(searched(8, prompts=2))
    found.save(tmp_path / "now.json")
    record = json.loads((tmp_path / "now.json").read_text())
    for level in record["levels"]:
        level["fraction"] = level["step"] / STEPS
    (tmp_path / "before.json").write_text(json.dumps(record))
    assert Calibration.load(tmp_path / "before.json") == Calibration.load(tmp_path / "now.json") == found
