"""Moves on the noise sphere: lengths, angles, exact ends, rows on their own, and the law they keep."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genscale.numerics.noise_sphere import mix, neighbour, slerp

DRAWS = torch.Generator().manual_seed(0)
X, Z = torch.randn(2, 5, 4, 8, 8, generator=DRAWS, dtype=torch.float64)
COSINES = [-1.0, -0.3, 0.0, 0.5, 0.95, 0.999999]


def _angles(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1).double(), b.flatten(1).double()
    return (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)


@pytest.mark.parametrize("cosine", COSINES)
def test_neighbour_keeps_length_and_angle(cosine: float) -> None:
    y = neighbour(X, cosine, Z)
    torch.testing.assert_close(y.flatten(1).norm(dim=1), X.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(_angles(X, y), torch.full((5,), cosine).double(), rtol=0, atol=1e-7)
    assert (_angles(X, y) - cosine).abs().max() < 1e-12


def test_neighbour_where_hardly_any_noise_is_across() -> None:
    z = X + 1e-6 * Z
    y = neighbour(X, 0.8, z)
    assert (_angles(X, y) - 0.8).abs().max() < 1e-12
    torch.testing.assert_close(y.flatten(1).norm(dim=1), X.flatten(1).norm(dim=1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_exact_ends(dtype: torch.dtype) -> None:
    x, z = X.to(dtype), Z.to(dtype)
    assert torch.equal(neighbour(x, 1.0, z), x)
    assert torch.equal(mix(x, 0.0, z), x)
    assert torch.equal(mix(x, 1.0, z), z)
    assert torch.equal(slerp(x, z, 0.0), x)
    assert torch.equal(slerp(x, z, 1.0), z)
    for y in (neighbour(x, 0.9, z), mix(x, 0.2, z), slerp(x, z, 0.4)):
        assert y.dtype == dtype
        assert y.shape == x.shape


MOVES = {
    "neighbour": lambda x, z: neighbour(x, 0.95, z),
    "mix": lambda x, z: mix(x, 0.2, z),
    "slerp": lambda x, z: slerp(x, z, 0.3),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_rows_do_not_see_each_other(move: Callable[[Tensor, Tensor], Tensor]) -> None:
    together = move(X.float(), Z.float())
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(move(X.float()[order], Z.float()[order]), together[order])
    for i in range(5):
        assert torch.equal(move(X.float()[i : i + 1], Z.float()[i : i + 1])[0], together[i])
    centre = move(X[0], Z)  # one point, five moves
    for i in range(5):
        torch.testing.assert_close(centre[i : i + 1], move(X[:1], Z[i : i + 1]), rtol=0, atol=0)


def test_slerp_turns_evenly_and_keeps_lengths() -> None:
    unit = X * (16 / X.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    other = Z * (16 / Z.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    angle = torch.acos(_angles(unit, other)).view(-1, 1, 1, 1)
    for t in (0.1, 0.5, 0.9):
        y = slerp(unit, other, t)
        usual = (torch.sin((1 - t) * angle) * unit + torch.sin(t * angle) * other) / torch.sin(angle)
        torch.testing.assert_close(y, usual, rtol=0, atol=1e-12)
        assert (torch.acos(_angles(unit, y)) - t * angle.flatten()).abs().max() < 1e-12
    lengths = slerp(unit, 3 * other, 0.25).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((5,), 24.0).double(), rtol=1e-12, atol=0)


def test_slerp_between_almost_equal_rows() -> None:
    for gap in (0.0, 1e-12, 1e-8, 1e-5):
        y = slerp(X, X + gap * Z, 0.25)
        torch.testing.assert_close(y, X + 0.25 * gap * Z, rtol=0, atol=gap**2 + 1e-14)  # the arc's bend


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"in \[-1, 1\], not 1.1"):
        neighbour(X, 1.1, Z)
    with pytest.raises(ValueError, match="parallel"):
        neighbour(X, 0.9, -2 * X)
    with pytest.raises(ValueError, match="parallel"):
        neighbour(X, 0.9, torch.zeros_like(X))
    with pytest.raises(ValueError, match="share of fresh noise"):
        mix(X, -0.1, Z)
    with pytest.raises(ValueError, match="opposite"):
        slerp(X, -X, 0.5)
    with pytest.raises(ValueError, match="zeros"):
        slerp(X, torch.zeros_like(X), 0.5)
    for move in MOVES.values():
        with pytest.raises(ValueError, match="noise is"):
            move(X[:2], Z)
        with pytest.raises(ValueError, match="noise is"):
            move(X[0, 0, 0], Z[0, 0, 0])
    assert torch.equal(neighbour(torch.zeros_like(X), 0.5, Z), torch.zeros_like(X))


N = 200_000


def _worst_z(y: Tensor) -> float:
    """Largest z-score of mean, variance, fourth moment and covariance of rows [N, 2], if standard normal."""
    deviations = torch.stack(
        [
            y.mean(0),
            (y.square().mean(0) - 1) / math.sqrt(2),
            (y.pow(4).mean(0) - 3) / math.sqrt(96),  # var of z^4 is 105 - 9
            (y[:, 0] * y[:, 1]).mean().expand(2),
        ]
    )
    return float(deviations.abs().max()) * math.sqrt(N)


@pytest.mark.parametrize("name", ["neighbour", "mix"])
def test_moves_keep_the_normal_law(name: str) -> None:
    x, z = torch.randn(2, N, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert _worst_z(MOVES[name](x, z)) < 4.5
    broken = {  # moves seen in public code: the first leaves the sphere, the second averages without sqrt
        "neighbour": x + math.sqrt(1 - 0.95**2) * z,
        "mix": (1 - 0.2) * x + 0.2 * z,
    }
    assert _worst_z(broken[name]) > 10
