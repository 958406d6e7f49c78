"""The plug-ins against what can be worked out without them. No pipeline is needed: `genscale.toy.analytic` is a
model whose answers are formulas, and a run takes milliseconds."""

from __future__ import annotations

import math

import pytest
import torch
from genscale_plugin.antithetic import Antithetic
from genscale_plugin.colour_share import ColourShare

from genscale import Media, UsageError
from genscale.plugins import registry
from genscale.toy import analytic

MODEL = analytic.gaussian(16)
FIRST = analytic.coordinate(0)
SCALE = float(MODEL.carry(torch.eye(16)[:1])[0, 0])  # the model's run is linear: a noise z ends at SCALE z


def test_genscale_finds_them() -> None:
    assert registry.make("sampler", "antithetic", {"candidates": 4}) == Antithetic(4)
    assert registry.make("verifier", "colour_share", {"colour": "blue"}) == ColourShare("blue")


def test_a_pair_mirrors_each_other() -> None:
    found = analytic.search(Antithetic(6), MODEL, FIRST)
    totals = {e.candidate.id: found.total(e) for e in found.ranking()}
    for i in (0, 2, 4):
        assert totals[i] == pytest.approx(-totals[i + 1], abs=1e-6)
    assert len({abs(round(t, 6)) for t in totals.values()}) == 3  # and no other


@pytest.mark.parametrize(
    ("candidates", "expected"), [(2, math.sqrt(2 / math.pi)), (4, 2 / math.sqrt(math.pi))]
)
def test_the_best_is_that_of_half_as_many_absolute_values(candidates: int, expected: float) -> None:
    """E max of |z| over 1 and 2 draws; best_of_n would have .56 and 1.03."""
    runs = 300
    found = analytic.search(Antithetic(candidates), MODEL, FIRST, runs=runs)
    best = torch.tensor([found.ranking(i)[0].total for i in range(runs)]) / SCALE
    error = float(best.std()) / math.sqrt(runs)
    assert abs(float(best.mean()) - expected) < 4 * error
    iid = {2: 1 / math.sqrt(math.pi), 4: 1.0294}[candidates]
    assert candidates > 2 or float(best.mean()) - iid > 4 * error  # the test would see best_of_n


@pytest.mark.parametrize(("budget", "finished"), [("7nfe", 0), ("8nfe", 1), ("47nfe", 5), ("1000nfe", 125)])
def test_the_budget_is_used_and_never_exceeded(budget: str, finished: int) -> None:
    found = analytic.search(Antithetic(), MODEL, FIRST, steps=8, budget=budget)
    assert found.searches[0].spent == 8 * finished
    assert len(found.ranking()) == finished


def test_it_costs_what_it_says() -> None:
    found = analytic.search(Antithetic(10, pairs=2), MODEL, FIRST, steps=5)
    process = found.searches[0].process
    assert found.searches[0].spent == found.ledger.nfe == Antithetic(10).cost(process) == 50
    assert Antithetic().cost(process) == 16 * 5


def test_neither_batches_nor_pairs_at_a_time_change_what_is_found() -> None:
    outcomes = [
        [(e.candidate, round(found.total(e), 6)) for e in found.ranking()]
        for found in (
            analytic.search(Antithetic(12, pairs=pairs), MODEL, FIRST, batch_size=size)
            for pairs, size in ((8, 256), (1, 256), (5, 3))
        )
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_bad_options_are_refused() -> None:
    for options in ({"candidates": 0}, {"pairs": 0}):
        with pytest.raises(UsageError):
            Antithetic(**options)
    for options in ({"colour": "reddish"}, {"width": 0.0}):
        with pytest.raises(UsageError):
            ColourShare(**options)


def picture(share: float) -> torch.Tensor:
    """Red in the upper rows, white below."""
    pixels = torch.ones(1, 3, 10, 4)
    pixels[:, 1:, : round(10 * share)] = 0
    return pixels


def test_the_share_of_a_colour() -> None:
    pictures = torch.cat([picture(s) for s in (0.0, 0.3, 1.0)])
    scores = ColourShare("red", width=0.1)(Media(pictures), ["", "", ""])
    assert scores.tolist() == pytest.approx([0.0, 0.3, 1.0], abs=1e-6)
    clip = torch.stack([picture(0.2)[0], picture(0.6)[0]])[None]
    assert ColourShare("#ff0000", width=0.1)(Media(clip), [""]).tolist() == pytest.approx([0.4], abs=1e-6)


def test_its_gradient() -> None:
    pixels = torch.rand(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score = ColourShare("teal").score_tensor
    assert torch.autograd.gradcheck(lambda p: score(p, ["", ""]), pixels.requires_grad_())
