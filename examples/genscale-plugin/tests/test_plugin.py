"""The plug-ins against what can be worked out without them. No pipeline is needed: `genscale.analytic` has models
whose answers are formulas, and a run takes milliseconds."""

from __future__ import annotations

import math

import pytest
import torch
from genscale_plugin.antithetic import Antithetic
from genscale_plugin.colour_share import ColourShare
from genscale_plugin.demon import Demon

import genscale
from genscale import Media, UsageError, analytic

MODEL = analytic.gaussian(16)
FIRST = analytic.coordinate(0)
SCALE = float(MODEL.carry(torch.eye(16)[:1])[0, 0])  # the model's run is linear: a noise z ends at SCALE z


def test_genscale_finds_them() -> None:
    assert genscale.make_sampler("antithetic", candidates=4) == Antithetic(4)
    assert genscale.make_sampler("demon", noises=4) == Demon(4)
    assert genscale.make_verifier("colour_share", colour="blue") == ColourShare("blue")


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


def test_candidate_0_of_a_pair_is_the_pipelines_own() -> None:
    alone = analytic.search("best_of_n", MODEL, FIRST, budget="8nfe").base()
    found = analytic.search(Antithetic(4), MODEL, FIRST).base()
    assert alone is not None
    assert found is not None
    assert torch.equal(found.x, alone.x)


# ---------------------------------------------------------------- demon


def test_a_demon_costs_what_it_says() -> None:
    """From pure noise the first step is deterministic, and the last adds no noise: K tries at steps 1 ... T - 2."""
    for steps, expected in ((8, 2 * 8 + 4 * 6), (3, 2 * 3 + 4), (2, 4)):
        found = analytic.search(Demon(noises=4), MODEL, FIRST, steps=steps)
        process = found.searches[0].process
        assert found.searches[0].spent == Demon(noises=4).cost(process) == expected


@pytest.mark.parametrize("budget", ["7nfe", "8nfe", "20nfe", "39nfe", "40nfe", "41nfe", "100nfe", "20calls"])
def test_a_demon_ends_inside_its_budget(budget: str) -> None:
    found = analytic.search(Demon(noises=4), MODEL, FIRST, budget=budget, runs=5)
    limit = genscale.Budget.parse(budget)
    for i, search in enumerate(found.searches):
        assert limit.nfe is None or search.spent <= limit.nfe
        assert limit.verifier_calls is None or search.calls <= limit.verifier_calls
        assert found.ranking(i) or budget == "7nfe"
        chains = [e for e in found.ranking(i) if e.candidate.id == 1]
        assert len(chains) == (limit.nfe is None or limit.nfe >= 20)  # what is begun is finished


def test_a_demon_goes_where_the_score_is_higher() -> None:
    """By more than one standard deviation with 16 tries a step; where all scores are equal it adds plain noise."""
    runs = 200
    found = analytic.search(Demon(noises=16), MODEL, FIRST, runs=runs)
    gains = [found.ranking(i) for i in range(runs)]
    chain = torch.tensor([next(e.total for e in entries if e.candidate.id == 1) for entries in gains])
    plain = torch.tensor([next(e.total for e in entries if e.candidate.id == 0) for entries in gains])
    assert float((chain - plain).mean()) > 1.0
    blind = analytic.search(
        Demon(noises=16), MODEL, lambda media, prompts: [0.0] * len(media), runs=runs, keep=2
    )
    firsts = torch.stack([next(e.x for e in blind.ranking(i) if e.candidate.id == 1) for i in range(runs)])
    assert abs(float(firsts.mean())) < 4 / math.sqrt(firsts.numel())
    assert float(firsts.std()) == pytest.approx(float(plain.std()), rel=0.15)


def test_a_demon_mixes_noises_to_the_length_of_noise() -> None:
    noises = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    scores = genscale.Scores(torch.arange(6.0, dtype=torch.float64)[:, None], lambda raw: raw[:, 0])
    mixed = Demon(noises=6)._combined(scores, noises)
    assert mixed.shape == (1, 50)
    assert float(mixed.norm()) == pytest.approx(math.sqrt(50), rel=1e-5)
    signs = Demon(noises=6, temperature=1e-6)._combined(scores, noises)  # three noises minus the three others
    expected = noises[3:].sum(0) - noises[:3].sum(0)
    assert torch.allclose(signs[0], expected * (math.sqrt(50) / expected.norm()), atol=1e-5)


def test_batches_do_not_change_what_a_demon_finds() -> None:
    found = [analytic.search(Demon(noises=5), MODEL, FIRST, batch_size=size) for size in (256, 2)]
    first, second = ([(e.candidate, round(f.total(e), 5)) for e in f.ranking()] for f in found)
    assert first == second


# ---------------------------------------------------------------- options and colours


def test_bad_options_are_refused() -> None:
    for options in ({"candidates": 0}, {"pairs": 0}):
        with pytest.raises(UsageError):
            Antithetic(**options)
    for options in ({"noises": 1}, {"temperature": 0.0}):
        with pytest.raises(UsageError):
            Demon(**options)
    for options in ({"colour": "reddish"}, {"width": 0.0}):
        with pytest.raises(UsageError):
            ColourShare(**options)


def image(share: float) -> torch.Tensor:
    """An image [1, 3, 10, 4], red in the upper rows and white below."""
    pixels = torch.ones(1, 3, 10, 4)
    pixels[:, 1:, : round(10 * share)] = 0
    return pixels


def test_the_share_of_a_colour() -> None:
    images = torch.cat([image(s) for s in (0.0, 0.3, 1.0)])
    scores = ColourShare("red", width=0.1)(Media(images), ["", "", ""])
    assert scores.tolist() == pytest.approx([0.0, 0.3, 1.0], abs=1e-6)
    video = torch.stack([image(0.2)[0], image(0.6)[0]])[None]
    assert ColourShare("#ff0000", width=0.1)(Media(video), [""]).tolist() == pytest.approx([0.4], abs=1e-6)


def test_its_gradient() -> None:
    pixels = torch.rand(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score = ColourShare("teal").score_tensor
    assert torch.autograd.gradcheck(lambda p: score(p, ["", ""]), pixels.requires_grad_())
