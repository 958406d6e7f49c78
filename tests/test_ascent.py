"""Optimisers, the norm penalty and the test of noise, each against what is known of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genscale.engine.prompt_category import REWARDS, TRUST, category, trust
from genscale.key import Key
from genscale.numerics.lbfgs import Lbfgs
from genscale.numerics.normality import FEWEST, block_p_value, measured, p_value
from genscale.numerics.optimisers import Adam, Momentum, clipped, shell_gradient, shell_penalty

ROWS, D = 3, 7


def bowl(seed: int = 0, spread: float = 4.0) -> tuple[Tensor, Tensor]:
    """Curvatures [rows, d, d], positive definite, and maxima [rows, d] of quadratic objectives."""
    q = torch.linalg.qr(Key((seed,)).normal((ROWS, D, D)).double())[0]
    scales = torch.logspace(0, math.log10(spread), D, dtype=torch.float64)
    return q @ torch.diag(scales) @ q.mT, Key((seed, 1)).normal((ROWS, D)).double()


def value(x: Tensor, a: Tensor, top: Tensor) -> Tensor:
    gap = x.double() - top
    return -0.5 * torch.einsum("ni,nij,nj->n", gap, a, gap)


def slope(x: Tensor, a: Tensor, top: Tensor) -> Tensor:
    return -torch.einsum("nij,nj->ni", a, x.double() - top)


def climbed(optimiser: object, turns: int, a: Tensor, top: Tensor, x: Tensor) -> list[Tensor]:
    path = [x]
    for _ in range(turns):
        made = optimiser.next(path[-1], value(path[-1], a, top), slope(path[-1], a, top).to(x))  # type: ignore[attr-defined]
        path.append(made)
    return path


# ---------------------------------------------------------------- first order


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_is_torch_s(nesterov: bool) -> None:
    a, top = bowl()
    x = Key((9,)).normal((ROWS, D))
    theirs = x.clone().requires_grad_()
    optimiser = torch.optim.SGD([theirs], lr=0.05, momentum=0.9, nesterov=nesterov)
    for mine in climbed(Momentum(0.05, 0.9, nesterov), 20, a, top, x)[1:]:
        theirs.grad = -slope(theirs.detach(), a, top).float()
        optimiser.step()
        assert torch.allclose(mine, theirs.detach(), atol=1e-6)
    assert not torch.allclose(mine, climbed(Momentum(0.05, 0.9, not nesterov), 20, a, top, x)[-1], atol=1e-3)


def test_adam_is_torch_s() -> None:
    a, top = bowl()
    x = Key((9,)).normal((ROWS, D))
    theirs = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.1)
    for mine in climbed(Adam(0.1), 20, a, top, x)[1:]:
        theirs.grad = -slope(theirs.detach(), a, top).float()
        optimiser.step()
        assert torch.allclose(mine, theirs.detach(), atol=2e-6)


@pytest.mark.parametrize("kind", [lambda: Momentum(0.05), lambda: Adam(0.1), lambda: Lbfgs(0.05, 10)])
def test_every_optimiser_reaches_the_top_and_rows_do_not_know_each_other(kind: object) -> None:
    a, top = bowl()
    x = Key((9,)).normal((ROWS, D))
    end = climbed(kind(), 200, a, top, x)[-1]  # type: ignore[operator]
    assert torch.allclose(end.double(), top, atol=1e-2)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone = climbed(kind(), 6, a[one], top[one], x[one])[-1]  # type: ignore[operator]
        assert torch.allclose(alone[0], climbed(kind(), 6, a, top, x)[6][row], atol=1e-6)  # type: ignore[operator]


# ---------------------------------------------------------------- second order


@pytest.mark.parametrize("seed", range(5))
def test_lbfgs_needs_little_more_than_d_evaluations_of_a_quadratic(seed: int) -> None:
    a, top = bowl(seed, 30.0)
    x = Key((seed, 9)).normal((ROWS, D)).double()
    path = climbed(Lbfgs(0.05, 20), 4 * D, a, top, x)
    start = -value(x, a, top)
    assert (-value(path[3 * D], a, top) < 1e-6 * start).all()
    plain = climbed(Momentum(1 / 30, 0.0, False), 3 * D, a, top, x)[
        -1
    ]  # the steepest way is far from there yet
    assert (-value(plain, a, top) > 1e-5 * start).all()


def test_lbfgs_climbs_a_curved_valley() -> None:
    """Rosenbrock's, upside down: 2 numbers a row."""

    def f(x: Tensor) -> Tensor:
        return -(1 - x[:, 0]).square() - 100 * (x[:, 1] - x[:, 0].square()).square()

    x = torch.tensor([[-1.2, 1.0], [2.0, -1.0]], dtype=torch.float64)
    optimiser, best = Lbfgs(0.05, 10), torch.full((2,), -math.inf, dtype=torch.float64)
    for _ in range(90):
        leaf = x.clone().requires_grad_()
        values = f(leaf)
        best = torch.maximum(best, values.detach())
        [g] = torch.autograd.grad(values.sum(), leaf)
        x = optimiser.next(x, values.detach(), g)
    assert (best > -1e-6).all()


def test_lbfgs_stands_still_where_nothing_slopes() -> None:
    x = torch.ones(1, 4)
    assert torch.equal(Lbfgs(0.05, 5).next(x, torch.zeros(1).double(), torch.zeros(1, 4)), x)


# ---------------------------------------------------------------- the shell


def test_the_penalty_s_gradient() -> None:
    z = (2 * Key((4,)).normal((5, 3, 4, 4))).requires_grad_()
    [wanted] = torch.autograd.grad(shell_penalty(z).sum(), z)
    assert torch.allclose(shell_gradient(z.detach()), wanted, atol=1e-6)
    on_shell = z.detach() * math.sqrt(47) / z.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert float(shell_gradient(on_shell).abs().max()) < 1e-6
    assert (shell_penalty(on_shell) < shell_penalty(z.detach())).all()


def test_the_penalty_is_finite_in_half_precision_and_at_0() -> None:
    z = (100 * Key((4,)).normal((1, 16, 64, 64))).half()
    assert torch.isfinite(shell_penalty(z)).all()
    assert not torch.isfinite(0.5 * z.square().sum())  # as the published code has it
    assert not shell_gradient(torch.zeros(1, 8)).any()


def test_rows_are_clipped_as_torch_clips() -> None:
    g = Key((5,)).normal((4, 6)) * torch.tensor([0.01, 0.1, 1.0, 10.0])[:, None]
    made = clipped(g, 0.1)
    for row in range(4):
        theirs = torch.zeros(6, requires_grad=True)
        theirs.grad = g[row].clone()
        torch.nn.utils.clip_grad_norm_([theirs], 0.1)
        assert torch.allclose(made[row], theirs.grad, atol=1e-8)
    assert clipped(g, None) is g


# ---------------------------------------------------------------- is it noise?


def kolmogorov(values: list[float]) -> float:
    """Largest distance between their distribution and the uniform one, times sqrt(n): above 1.63 once in 100."""
    n, x = len(values), sorted(values)
    gaps = [max((i + 1) / n - v, v - i / n) for i, v in enumerate(x)]
    return max(gaps) * math.sqrt(n)


@pytest.mark.parametrize("d", [4 * FEWEST, 512, 4096])
def test_p_values_of_true_noise_are_uniform(d: int) -> None:
    values = [block_p_value(Key((d, i)).normal((d,))) for i in range(400)]
    assert kolmogorov([v for v in values if v is not None]) < 1.63
    twin = [block_p_value(1.1 * Key((d, i)).normal((d,))) for i in range(400)]  # a tenth too long
    assert d < 512 or kolmogorov([v for v in twin if v is not None]) > 1.63


def test_few_true_noises_are_called_implausible() -> None:
    values = [p_value(Key((i,)).normal((4, 16, 16))) for i in range(400)]
    for level in (0.01, 0.1):
        found = sum(v < level for v in values if v is not None)
        assert found <= level * 400 + 3 * math.sqrt(level * 400)


def smooth(z: Tensor, axis: int) -> Tensor:
    made = (z + z.roll(1, axis)) / math.sqrt(2)
    return made * (z.norm() / made.norm())


@pytest.mark.parametrize(
    "made",
    [
        lambda z: torch.full_like(z, 1.0),
        lambda z: z + 0.2,
        lambda z: 1.15 * z,
        lambda z: 0.85 * z,
        lambda z: smooth(z, 0),
        lambda z: smooth(z, 1),
        lambda z: smooth(z, 2),
        lambda z: z[:1].expand_as(z),
    ],
)
def test_structure_is_seen_along_every_axis(made: object) -> None:
    p = p_value(made(Key((8,)).normal((4, 32, 32))))  # type: ignore[operator]
    assert p is not None
    assert p < 1e-6


def test_nothing_is_said_of_few_numbers() -> None:
    assert p_value(torch.randn(3)) is None
    assert set(measured(torch.ones(3), torch.ones(3))) == {"length", "cosine", "moved"}


def test_what_is_measured() -> None:
    start = Key((3,)).normal((4, 8, 8))
    found = measured(-2 * start, start)
    length = float(start.norm()) / 16
    assert found["cosine"] == pytest.approx(-1)
    assert found["length"] == pytest.approx(2 * length, rel=1e-5)
    assert found["moved"] == pytest.approx(3 * length, rel=1e-5)
    assert found["plausibility"] < 1e-10


# ---------------------------------------------------------------- kinds of prompts


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("a green bench", "color"),
        ("a round clock", "shape"),
        ("a fluffy pillow", "texture"),
        ("a dog on the left of a table", "2d_spatial"),
        ("a mouse hidden by a key", "3d_spatial"),
        ("a cat behind a sofa", "3d_spatial"),
        ("two dogs", "numeracy"),
        ("a man wearing a hat", "non_spatial"),
        ("a red star left of a blue ring", "complex"),
        ("three green circles", "complex"),
        ("a lighthouse", "overall"),
        ("a scholar in an office with a scored book", "overall"),  # words within words are no words
    ],
)
def test_the_kind_of_a_prompt(prompt: str, kind: str) -> None:
    assert category(prompt) == kind


def test_the_table() -> None:
    for kind, row in TRUST.items():
        assert sum(row) == pytest.approx(4, abs=0.05), kind
    assert len(REWARDS) == 4
    names = ["hps(device=cpu)", "shapes_clip", "ImageReward", "vqa_score"]
    assert trust("two dogs", names) == [1.02, 1.0, 1.05, 0.93]
