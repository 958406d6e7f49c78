"""Weights: softmax, ESS, tempering, and what each resampling scheme promises, against twins that break it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from genscale.key import Key
from genscale.numerics.resampling import (
    SCHEMES,
    ess,
    flatten,
    log_mean_exp,
    normalised,
    resample,
    resample_segments,
    temper_to_ess,
)

Scheme = Callable[[Tensor, int, Key], Tensor]
N, REPEATS = 8, 4000
W = torch.tensor([0.03, 0.36, 0.0, 0.125, 0.09, 0.21, 0.1, 0.085], dtype=torch.float64)
INF, NAN = math.inf, math.nan
BELOW_ONE = 1 - 2.0**-53  # the largest number that Key.uniform gives


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On a busy machine, waking threads takes longer than all the sums here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Stuck(Key):
    """A key whose uniform numbers are all the same: the ends of [0, 1)."""

    value: float = 0.0

    def fold(self, *ids: int | str) -> Key:
        return self

    def uniform(self, n: int) -> Tensor:
        return torch.full((n,), self.value, dtype=torch.float64)


# ---------------------------------------------------------------- the law of the offspring


def draws(scheme: Scheme, m: int, repeats: int) -> Tensor:
    """Offspring of each row of W: [repeats, N]."""
    key = Key.from_seed(5)
    ancestors = torch.stack([scheme(W, m, key.fold(i)) for i in range(repeats)])
    return torch.zeros(repeats, N).double().scatter_add(1, ancestors, torch.ones(repeats, m).double())


@functools.cache
def offspring(name: str, m: int = N) -> Tensor:
    return draws(SCHEMES[name], m, REPEATS if m == N else 1000)


def z_score(samples: Tensor, wanted: Tensor) -> float:
    """Largest |z| of the column means of samples [repeats, k]; infinite where one is off and never varies."""
    gap, std = (samples.mean(0) - wanted).abs(), samples.std(0)
    gap = torch.where(gap < 1e-9, 0.0, gap)
    return float((gap / (std / math.sqrt(len(samples)))).nan_to_num(0.0, posinf=INF).max())


def _rows(counts: Tensor, m: int) -> Tensor:
    return torch.searchsorted(counts.cumsum(0), torch.arange(m), right=True)


def _rest_by_weight(w: Tensor, m: int, key: Key) -> Tensor:
    counts = (m * w).floor().long()
    left = torch.searchsorted(w.cumsum(0), key.uniform(m - int(counts.sum())), right=True)
    return _rows(counts + torch.bincount(left, minlength=len(w)), m)


def _largest_parts(w: Tensor, m: int, key: Key) -> Tensor:
    counts = (m * w).floor().long()
    counts[(m * w - counts).topk(m - int(counts.sum())).indices] += 1
    return _rows(counts, m)


def _reborn_anywhere(w: Tensor, m: int, key: Key) -> Tensor:
    survives = key.fold("survive").uniform(m) < w / w.max()
    anywhere = (m * key.fold("draw").uniform(m)).long()
    return torch.where(survives, torch.arange(m), anywhere)


BROKEN: dict[str, Scheme] = {
    "multinomial": lambda w, m, key: SCHEMES["multinomial"](w**2 / (w**2).sum(), m, key),
    "residual": _rest_by_weight,
    "stratified": lambda w, m, key: torch.searchsorted(w.cumsum(0), (torch.arange(m) + 0.5).double() / m),
    "systematic": lambda w, m, key: SCHEMES["systematic"](w, m, Stuck((), 0.3)),
    "ssp": _largest_parts,
    "killing": _reborn_anywhere,
}


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_unbiased(name: str) -> None:
    assert z_score(offspring(name), N * W) < 4
    assert z_score(draws(BROKEN[name], N, 800), N * W) > 8


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"killing"}))
@pytest.mark.parametrize("m", [3, 13])
def test_more_or_fewer_offspring_than_rows(name: str, m: int) -> None:
    assert (offspring(name, m).sum(1) == m).all()
    assert z_score(offspring(name, m), m * W) < 4
    # Squared weights shift every mean by up to 5 % of m: not enough for any scheme to hide in its noise.
    assert z_score(draws(lambda w, m, key: SCHEMES[name](w**2 / (w**2).sum(), m, key), m, 400), m * W) > 6


@pytest.mark.parametrize("name", SCHEMES)
def test_offspring_add_up_and_none_is_of_weight_zero(name: str) -> None:
    assert (offspring(name).sum(1) == N).all()
    assert (offspring(name)[:, W == 0] == 0).all()


def test_how_far_offspring_stray() -> None:
    for name in ("systematic", "ssp"):
        assert ((offspring(name) - N * W).abs() < 1).all()
        assert ((offspring(name, 13) - 13 * W).abs() < 1).all()
    assert ((offspring("stratified") - N * W).abs() < 2).all()
    assert (offspring("residual") >= (N * W).floor()).all()
    assert ((offspring("multinomial") - N * W).abs() >= 2).any()  # so the bounds above say something


def exact_variance(name: str) -> float:
    """Sum over the rows of the variance of the offspring, m = N, in closed form."""
    whole, part = (N * W).floor(), N * W - (N * W).floor()
    if name == "multinomial":
        return float(N * (W * (1 - W)).sum())
    if name == "residual":
        left = N - whole.sum()
        return float((part * (1 - part / left)).sum())
    if name == "stratified":
        edge, stratum = (N * W).cumsum(0), torch.arange(N).double()[:, None]
        share = (edge.clamp(stratum, stratum + 1) - (edge - N * W).clamp(stratum, stratum + 1)).clamp(min=0)
        return float((share * (1 - share)).sum())
    if name == "killing":  # total variance, given who survives
        v = W / W.max() * (1 - W / W.max())
        reborn = N - (W / W.max()).sum()
        return float(((1 - W) ** 2 * v + W**2 * (v.sum() - v) + reborn * W * (1 - W)).sum())
    return float((part * (1 - part)).sum())  # systematic and ssp: floor or one more


def test_variances_are_those_of_theory() -> None:
    exact = {name: exact_variance(name) for name in SCHEMES}
    order = ["multinomial", "killing", "residual", "stratified", "systematic"]
    assert all(exact[a] > 1.1 * exact[b] for a, b in itertools.pairwise(order))
    for name in SCHEMES:
        spread = (offspring(name) - N * W).square().sum(1, keepdim=True)
        assert z_score(spread, f64(exact[name])) < 4
        for other in order:
            if abs(exact[other] - exact[name]) > 1e-9:
                assert z_score(spread, f64(exact[other])) > 6


# ---------------------------------------------------------------- exact cases


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("n", [1, 2, 7, 49, 98, 1000])  # 49 * (1 / 49) is below 1
def test_uniform_weights(name: str, n: int) -> None:
    uniform, all_rows = torch.full((n,), 1 / n, dtype=torch.float64), torch.arange(n)
    single = torch.full((n,), 1 / n)  # float32
    keys = [Key.from_seed(2).fold(n), Stuck((), 0.0), Stuck((), BELOW_ONE)]
    same = [torch.equal(resample(name, w, n, key), all_rows) for w in (uniform, single) for key in keys]
    assert all(same) if name != "multinomial" or n == 1 else not any(same)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("row", [0, 3, 6])
def test_one_row_has_all_the_weight(name: str, row: int) -> None:
    w = torch.eye(7, dtype=torch.float64)[row]
    for key in (Key.from_seed(1), Stuck((), 0.0), Stuck((), BELOW_ONE)):
        assert resample(name, w, 7, key).tolist() == [row] * 7


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_round_off_at_the_ends_of_a_large_pool(name: str, dtype: torch.dtype) -> None:
    n = 100_000
    w = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=dtype)
    w[:5] = w[-5:] = w[5000:6000] = 0
    w /= w.sum()
    assert w.cumsum(0)[-1] != 1
    for key in (Key.from_seed(3), Stuck((), 0.0), Stuck((), BELOW_ONE)):
        chosen = resample(name, w, n, key)
        assert chosen.shape == (n,)
        assert chosen.dtype == torch.long
        assert (chosen.diff() >= 0).all()
        assert (w[chosen] > 0).all()
        if name in ("systematic", "ssp"):
            gap = torch.bincount(chosen, minlength=n) - n * w.double() / w.double().sum()
            assert gap.abs().max() < 1 + 1e-9


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"killing"}))
def test_a_tiny_weight_is_not_zero(name: str) -> None:
    assert resample(name, f64(1e-14, 0.5, 0.5), 3, Stuck((), 0.0))[0] == 0


def test_refusals() -> None:
    key = Key.from_seed(0)
    with pytest.raises(
        ValueError, match=r"'best'.*systematic, ssp, stratified, residual, killing, multinomial"
    ):
        resample("best", W, N, key)
    with pytest.raises(ValueError, match="m must be 8, not 5"):
        resample("killing", W, 5, key)
    for name in SCHEMES:
        for wrong in (2 * W, W - 0.01, torch.full((N,), NAN), torch.zeros(N), torch.empty(0), W.view(2, 4)):
            with pytest.raises(ValueError, match="add up to 1"):
                resample(name, wrong, N, key)
        with pytest.raises(ValueError, match="at least one offspring"):
            resample(name, W, 0, key)
    with pytest.raises(ValueError, match="without gaps"):
        resample_segments("ssp", f64(0.5, 0.5, 1), torch.tensor([0, 0, 2]), 2, key)
    for segments in (torch.tensor([0, 0]), torch.tensor([0, 0, -1])):
        with pytest.raises(ValueError, match="ids"):
            normalised(torch.zeros(3), segments)


# ---------------------------------------------------------------- segments

IDS = torch.tensor([2, 0, 1, 0, 2, 2, 0, 1, 2, 0, 2, 0])
LOG_W = torch.randn(12, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 3
LOG_W[3], LOG_W[7] = -INF, NAN


def test_a_segment_gives_what_it_gives_alone() -> None:
    w, means, sizes = normalised(LOG_W, IDS), log_mean_exp(LOG_W, IDS), ess(LOG_W, IDS)
    assert means.shape == sizes.shape == (3,)
    for s in range(3):
        alone = LOG_W[s == IDS]
        assert torch.equal(w[s == IDS], normalised(alone))
        assert torch.equal(means[s], log_mean_exp(alone))
        assert torch.equal(sizes[s], ess(alone))


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"killing"}))
def test_segments_draw_on_their_own(name: str) -> None:
    w, key = normalised(LOG_W, IDS), Key.from_seed(6)
    chosen = resample_segments(name, w, IDS, 9, key)
    assert chosen.shape == (27,)
    for s, part in enumerate(chosen.split(9)):
        rows = (s == IDS).nonzero()[:, 0]
        assert torch.equal(part, rows[resample(name, w[rows], 9, key.fold(s))])
    others = torch.where(IDS == 1, LOG_W, LOG_W.flip(0))
    assert torch.equal(resample_segments(name, normalised(others, IDS), IDS, 9, key)[9:18], chosen[9:18])


def test_killing_in_segments_of_one_size() -> None:
    w = f64(0.5, 1.0, 0.5, 0.0)
    assert resample_segments("killing", w, torch.tensor([0, 1, 0, 1]), 2, Key.from_seed(0)).tolist() == [
        0,
        2,
        1,
        1,
    ]


# ---------------------------------------------------------------- softmax, means, ESS


def test_direct_formulas() -> None:
    w = f64(1, 2, 3, 4)
    torch.testing.assert_close(normalised(w.log()), w / 10)
    torch.testing.assert_close(log_mean_exp(w.log()), f64(2.5).log()[0])
    torch.testing.assert_close(ess(w.log()), f64(100 / 30)[0])
    assert log_mean_exp(w).shape == ess(w).shape == ()
    assert (
        normalised(w.float().log()).dtype
        == log_mean_exp(w.half()).dtype
        == ess(w.int()).dtype
        == torch.float64
    )


@pytest.mark.parametrize("shift", [-1e4, 1e4, -1e300])
def test_stable_where_exp_is_not(shift: float) -> None:
    torch.testing.assert_close(log_mean_exp(f64(shift, shift)), f64(shift)[0], rtol=1e-15, atol=0)
    if abs(shift) == 1e4:
        near = f64(0, 1, 2)
        torch.testing.assert_close(normalised(near + shift), normalised(near))
        torch.testing.assert_close(ess(near + shift), ess(near))
        torch.testing.assert_close(log_mean_exp(near + shift), log_mean_exp(near) + shift, rtol=1e-15, atol=0)
    assert normalised(f64(shift, 0)).tolist() == ([1.0, 0.0] if shift > 0 else [0.0, 1.0])
    assert float(ess(f64(shift, 0))) == 1


def test_dead_particles() -> None:
    assert normalised(f64(0, -INF, NAN, 0)).tolist() == [0.5, 0, 0, 0.5]
    assert float(log_mean_exp(f64(0, -INF, NAN, 0))) == math.log(0.5)
    assert float(ess(f64(0, -INF, NAN, 0))) == 2
    ids, dead_end = torch.tensor([0, 1, 0, 1]), f64(-INF, 3, NAN, 3)
    assert normalised(dead_end, ids).tolist() == [0.5] * 4
    assert log_mean_exp(dead_end, ids).tolist() == [-INF, 3]
    assert ess(dead_end, ids).tolist() == [2, 2]
    assert normalised(f64(NAN, -INF)).tolist() == [0.5, 0.5]


def test_nobody_there() -> None:
    nobody, none = torch.empty(0), torch.empty(0, dtype=torch.long)
    assert normalised(nobody).shape == (0,)
    assert float(log_mean_exp(nobody)) == -INF
    assert float(ess(nobody)) == 0
    assert ess(nobody, none).shape == log_mean_exp(nobody, none).shape == (0,)
    gap = torch.tensor([0, 2])
    assert log_mean_exp(f64(1, 1), gap).tolist() == [1, -INF, 1]
    assert ess(f64(1, 1), gap).tolist() == [1, 0, 1]


# ---------------------------------------------------------------- tempering and flattening


def test_tempering_step_by_hand() -> None:
    # Weights e^d and 1: ESS = (x + 1)^2 / (x^2 + 1) with x = e^d, which is 1.6 at x = 3.
    assert temper_to_ess(f64(0, 0), f64(1, 0), 0.8, 5.0) == pytest.approx(math.log(3), abs=1e-12)
    assert temper_to_ess(f64(7, 7), f64(-2, 0), 0.8, 5.0) == pytest.approx(math.log(3) / 2, abs=1e-12)
    assert temper_to_ess(f64(0, 0), f64(1, 0), 0.8, 1.0) == 1.0
    assert temper_to_ess(f64(0, 0), f64(4, 4), 1.0, 3.0) == 3.0
    assert temper_to_ess(f64(9, 0), f64(-1, 0), 0.8, 9.0) == 0.0  # too low already, though not at d = 9
    assert temper_to_ess(f64(0, 0, 0), f64(0, NAN, 0), 0.5, 2.0) == 2.0
    assert temper_to_ess(f64(0, 0, 0), f64(0, NAN, -INF), 0.5, 2.0) == 0.0


def test_tempering_keeps_the_ess_and_falls_with_the_target() -> None:
    gain = torch.randn(50, generator=torch.Generator().manual_seed(8)).double()
    steps = []
    for target in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        d = temper_to_ess(torch.zeros(50), gain, target, 100.0)
        assert float(ess(d * gain)) >= target * 50
        assert float(ess((d + 1e-9) * gain)) < target * 50
        steps.append(d)
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == 6


@pytest.mark.parametrize(
    ("target", "most"), [(0.0, 1.0), (1.1, 1.0), (0.5, -1.0), (0.5, INF), (NAN, 1.0), (0.5, NAN)]
)
def test_tempering_refuses(target: float, most: float) -> None:
    with pytest.raises(ValueError, match="not"):
        temper_to_ess(torch.zeros(2), torch.ones(2), target, most)


def test_flattening() -> None:
    peaked = f64(0, -50, -50, -INF)  # ESS 1 of 4
    torch.testing.assert_close(flatten(peaked, 0.0), peaked / 4)
    torch.testing.assert_close(flatten(peaked, 0.25), peaked / 3)
    assert flatten(peaked, 0.5) is peaked
    even = f64(0, 0, -50, -50)  # ESS 2 of 4
    assert flatten(even, 0.0) is even
    assert ess(flatten(f64(0, -4, -4, -4), 0.1)) > 2 > ess(f64(0, -4, -4, -4))
