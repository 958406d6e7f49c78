"""Every kind of model output against the definitions, both ways, and at the ends."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import PREDICTIONS, Limit, View, clean_and_noise, convert

LEVELS = [(0.6, 0.8), (0.3, 0.7), (1.0, 14.6), (1.0, 0.002), (0.02, 0.9998), (0.999, 0.01)]
X0, EPS = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DEFINITIONS = {
    "epsilon": lambda a, s: EPS,
    "sample": lambda a, s: X0,
    "v_prediction": lambda a, s: a * EPS - s * X0,
    "flow": lambda a, s: EPS - X0,
}


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_definition_and_inverse(kind: str, alpha: float, sigma: float) -> None:
    x = alpha * X0 + sigma * EPS
    output = DEFINITIONS[kind](alpha, sigma)
    x0, eps = clean_and_noise(kind, output, x, alpha, sigma)
    error = 1e-14 * max(sigma / alpha, alpha / sigma, 1)
    torch.testing.assert_close(x0, X0, rtol=0, atol=20 * error)
    torch.testing.assert_close(eps, EPS, rtol=0, atol=20 * error)
    torch.testing.assert_close(convert(kind, X0, EPS, alpha, sigma), output, rtol=1e-15, atol=1e-15)
    back = clean_and_noise(kind, convert(kind, x0, eps, alpha, sigma), x, alpha, sigma)
    torch.testing.assert_close(back[0], X0, rtol=0, atol=40 * error)


@pytest.mark.parametrize("kind", ["v_prediction", "flow"])
@pytest.mark.parametrize(("alpha", "sigma"), [(0.0, 1.0), (1.0, 0.0), (1e-20, 1.0), (1.0, 1e-20)])
def test_well_conditioned_at_both_ends(kind: str, alpha: float, sigma: float) -> None:
    x = (alpha * X0 + sigma * EPS).float()
    x0, eps = clean_and_noise(kind, DEFINITIONS[kind](alpha, sigma).float(), x, alpha, sigma)
    torch.testing.assert_close(x0, X0.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(eps, EPS.float(), rtol=0, atol=1e-6)


def test_where_an_output_says_nothing_the_mean_is_returned() -> None:
    x0, eps = clean_and_noise("epsilon", EPS, EPS, 0.0, 1.0)
    assert torch.equal(x0, torch.zeros_like(EPS))
    assert torch.equal(eps, EPS)
    x0, eps = clean_and_noise("sample", X0, X0, 1.0, 0.0)
    assert torch.equal(x0, X0)
    assert torch.equal(eps, torch.zeros_like(X0))


def test_levels_by_row_are_levels_one_by_one() -> None:
    alpha = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1)
    sigma = 1 - alpha
    x = torch.randn(3, 4, 5)
    for kind in PREDICTIONS:
        output = torch.randn(3, 4, 5)
        together = clean_and_noise(kind, output, x, alpha, sigma)
        for i in range(3):
            alone = clean_and_noise(kind, output[i : i + 1], x[i : i + 1], float(alpha[i]), float(sigma[i]))
            assert torch.equal(together[0][i], alone[0][0])
            assert torch.equal(together[1][i], alone[1][0])
        assert torch.isfinite(torch.stack(together)).all()


@pytest.mark.parametrize(
    ("given", "returned"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_precision(given: torch.dtype, returned: torch.dtype) -> None:
    output, x = torch.randn(2, 2, 3).to(given)
    for kind in PREDICTIONS:
        x0, eps = clean_and_noise(kind, output, x, 0.6, 0.8)
        assert x0.dtype == eps.dtype == returned
        assert convert(kind, x0, eps, torch.tensor(0.6), torch.tensor(0.8)).dtype == returned
    assert clean_and_noise("flow", output, x.double(), 0.6, 0.8)[0].dtype == torch.float64


def test_affine_combinations_do_not_depend_on_the_kind() -> None:
    """Guidance 2 a - b of two predictions is the same in every space (weights sum to 1)."""
    alpha, sigma = 0.3, 0.7
    x = alpha * X0 + sigma * EPS
    other = (x - alpha * (X0 + 1)) / sigma
    guided = []
    for kind in PREDICTIONS:
        a = convert(kind, X0, EPS, alpha, sigma)
        b = convert(kind, X0 + 1, other, alpha, sigma)
        guided.append(clean_and_noise(kind, 2 * a - b, x, alpha, sigma)[0])
    for x0 in guided:
        torch.testing.assert_close(x0, guided[0], rtol=0, atol=1e-13)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="one of epsilon, sample, v_prediction, flow, not 'score'"):
        clean_and_noise("score", X0, X0, 1, 1)
    with pytest.raises(ValueError, match="not 'score'"):
        convert("score", X0, X0, 1, 1)
    with pytest.raises(ValueError, match="split that off"):
        clean_and_noise("epsilon", torch.zeros(1, 6, 2), torch.zeros(1, 3, 2), 1, 1)


def _view(kind: str, **options: object) -> View:
    return View(NoiseSchedule(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0])), kind, **options)  # type: ignore[arg-type]


def test_edm_preconditioning_is_v_in_the_network_s_coordinates() -> None:
    std, sigma = 0.5, 3.0
    network, x = torch.randn(2, 2, 3, dtype=torch.float64)
    total = sigma**2 + std**2
    expected = std**2 / total * x + sigma * std / math.sqrt(total) * network  # Karras et al. 2022, table 1
    view = _view("v_prediction", gain=-1.0, data_std=std)
    x0, eps = view.clean_and_noise(0, network, x)
    torch.testing.assert_close(x0, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(x0 + sigma * eps, x, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(view.output(0, x0, eps), network, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_view_inverse_and_pickle(kind: str) -> None:
    view = pickle.loads(pickle.dumps(_view(kind, gain=-2.0, data_std=0.7, limit=Limit(1.0))))
    output, x = torch.randn(2, 2, 3, dtype=torch.float64)
    free = View(view.schedule, kind, view.gain, view.data_std)
    torch.testing.assert_close(
        free.output(0, *free.clean_and_noise(0, output, x)), output, rtol=1e-12, atol=1e-12
    )
    limited, eps = view.clean_and_noise(0, 9 * output, x)
    assert limited.abs().max() == 1
    torch.testing.assert_close(limited + 3.0 * eps, x, rtol=1e-14, atol=1e-14)


def test_learned_variance_is_cut_off() -> None:
    x, output = torch.randn(2, 3, 4), torch.randn(2, 6, 4)
    mean = _view("epsilon").clean_and_noise(0, output[:, :3], x)
    both = _view("epsilon", learned_variance=True).clean_and_noise(0, output, x)
    assert torch.equal(mean[0], both[0])
    assert torch.equal(mean[1], both[1])
    with pytest.raises(ValueError, match="split that off"):
        _view("epsilon").clean_and_noise(0, output, x)


def test_half_precision_is_left_before_the_level_is_used() -> None:
    x, output = torch.randn(2, 2, 3).bfloat16()
    view = _view("v_prediction", data_std=0.5)
    low, high = view.clean_and_noise(0, output, x), view.clean_and_noise(0, output.double(), x.double())
    torch.testing.assert_close(low[0], high[0].float(), rtol=1e-6, atol=1e-6)


def test_dynamic_threshold_is_per_row() -> None:
    x = torch.stack(
        [torch.linspace(-3, 3, 101), torch.linspace(-0.5, 0.5, 101), torch.linspace(-30, 30, 101)]
    )
    y = Limit(10.0, quantile=0.9)(x)
    assert y.abs().amax(1).tolist() == [1.0, 0.5, 1.0]
    bound = torch.quantile(x[0].abs(), 0.9)
    torch.testing.assert_close(y[0], x[0].clamp(-bound, bound) / bound)
    assert (y[2].abs() == 1).sum() == (x[2].abs() >= 10).sum()  # its quantile is 27, but 10 is the largest
