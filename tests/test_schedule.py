"""The noise schedule: its words, and the forward kernel in algebra and in law."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from genscale.diffusion.noise_schedule import NoiseSchedule

T = torch.linspace(1, 0, 9, dtype=torch.float64)
INTERPOLANTS = {
    "linear": NoiseSchedule(1 - T, T),
    "trigonometric": NoiseSchedule(torch.cos(T * math.pi / 2).clamp(min=0), torch.sin(T * math.pi / 2)),
    "ddpm": NoiseSchedule(torch.exp(-5 * T**2), (1 - torch.exp(-10 * T**2)).sqrt()),
    "exploding": NoiseSchedule(torch.ones(9), 80 * T**3),
    "polynomial": NoiseSchedule(1 - T**3, T**3),
}


@pytest.fixture(params=INTERPOLANTS, ids=str)
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return INTERPOLANTS[request.param]


def test_words_at_the_ends() -> None:
    linear = INTERPOLANTS["linear"]
    assert linear.steps == 8
    assert torch.equal(linear.linear_time, T)
    assert linear.kappa[0] == math.inf
    assert linear.kappa[-1] == 0
    assert linear.log_snr[0] == -math.inf
    assert linear.log_snr[-1] == math.inf
    assert linear.alpha.dtype == torch.float64


def test_words_agree(schedule: NoiseSchedule) -> None:
    kappa = schedule.kappa[1:-1]
    torch.testing.assert_close(schedule.linear_time[1:-1], kappa / (1 + kappa), rtol=1e-14, atol=0)
    torch.testing.assert_close(schedule.log_snr[1:-1], -2 * kappa.log(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("alpha", "sigma"),
    [
        ([1.0], [0.0]),
        ([1.0, 1.0], [1.0]),
        ([0.0, 1.0], [0.0, 0.0]),
        ([-0.1, 1], [1, 0]),
        ([math.nan, 1], [1, 0]),
    ],
)
def test_what_is_no_schedule(alpha: list[float], sigma: list[float]) -> None:
    with pytest.raises(ValueError, match="noise"):
        NoiseSchedule(torch.tensor(alpha), torch.tensor(sigma))


def test_nearest() -> None:
    repeated = NoiseSchedule(1 - T.repeat_interleave(2), T.repeat_interleave(2))  # as a Heun solver has it
    assert [repeated.nearest(t) for t in (1.0, 0.99, 0.875, 0.0, -3.0, 7.0)] == [0, 0, 2, 16, 16, 0]
    assert repeated.nearest(0.9375) == 0  # halfway: the noisier level, and the first of its two rows
    tenths = NoiseSchedule(*torch.tensor([[0.7, 0.8, 1.0], [0.3, 0.2, 0.0]], dtype=torch.float64))
    assert tenths.nearest(0.25) == 0  # halfway but for rounding
    assert tenths.nearest(0.249) == 1


def test_forward_kernel_carries_signal_and_noise(schedule: NoiseSchedule) -> None:
    for stop, start in itertools.combinations_with_replacement(range(9), 2):
        scale, std = schedule.forward_kernel(start, stop)
        if schedule.alpha[start] > 0:
            assert scale * schedule.alpha[start] == pytest.approx(float(schedule.alpha[stop]), rel=1e-14)
        variance = scale**2 * schedule.sigma[start] ** 2 + std**2
        assert float(variance) == pytest.approx(float(schedule.sigma[stop] ** 2), rel=1e-12)


def test_two_renoisings_are_one(schedule: NoiseSchedule) -> None:
    for stop, middle, start in itertools.combinations_with_replacement(range(9), 3):
        scale, std = schedule.forward_kernel(start, stop)
        first, first_std = schedule.forward_kernel(start, middle)
        second, second_std = schedule.forward_kernel(middle, stop)
        assert scale == pytest.approx(first * second, rel=1e-13)
        assert std**2 == pytest.approx(second**2 * first_std**2 + second_std**2, rel=1e-10, abs=1e-15)


def test_equal_levels_are_left_alone(schedule: NoiseSchedule) -> None:
    x = torch.randn(3, 2, dtype=torch.bfloat16)
    for i in range(9):
        assert schedule.renoise(x, i, i, torch.randn_like(x)) is x


def test_renoising_to_pure_noise_forgets(schedule: NoiseSchedule) -> None:
    linear, noise = INTERPOLANTS["linear"], torch.randn(3, 2)
    assert torch.equal(linear.renoise(torch.randn(3, 2), 5, 0, noise), noise)
    assert torch.equal(linear.renoise(torch.randn(3, 2), 8, 0, noise), noise)


def test_from_the_clean_end(schedule: NoiseSchedule) -> None:
    x0, eps = torch.randn(2, 4, 5, dtype=torch.float64)
    for stop in range(8):
        expected = schedule.alpha[stop] / schedule.alpha[8] * x0 + schedule.sigma[stop] * eps
        torch.testing.assert_close(schedule.renoise(x0, 8, stop, eps), expected, rtol=1e-12, atol=1e-12)


def test_noise_is_not_taken_away(schedule: NoiseSchedule) -> None:
    x = torch.zeros(1, 2)
    for start, stop in itertools.combinations(range(9), 2):
        with pytest.raises(ValueError, match=f"level {stop} .* is less noisy than level {start}"):
            schedule.renoise(x, start, stop, x)


def test_renoise_shapes_and_precision() -> None:
    linear = INTERPOLANTS["linear"]
    with pytest.raises(ValueError, match="needs noise of that shape"):
        linear.renoise(torch.zeros(2, 3), 5, 2, torch.zeros(1, 3))
    half = linear.renoise(torch.ones(2, 3, dtype=torch.bfloat16), 5, 2, torch.ones(2, 3))
    exact = linear.renoise(torch.ones(2, 3, dtype=torch.float64), 5, 2, torch.ones(2, 3))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


N = 200_000


def _worst_z(x: torch.Tensor, x0: torch.Tensor, schedule: NoiseSchedule, stop: int) -> float:
    """Largest z-score of the moments that x = alpha x0 + sigma (any standard normal) must have.

    Standard errors over N draws: sigma / sqrt(N) for the mean and for the slope on x0 = +-1, and
    sigma^2 sqrt(2 / N) for the variance.
    """
    alpha, sigma = float(schedule.alpha[stop]), float(schedule.sigma[stop])
    rest = x - alpha * x0
    scores = (
        rest.mean() / sigma,
        (rest * x0).mean() / sigma,
        (rest.square().mean() / sigma**2 - 1) / math.sqrt(2),
    )
    return max(abs(float(z)) for z in scores) * math.sqrt(N)


@pytest.mark.parametrize(("start", "stop"), [(5, 4), (4, 3)])
def test_renoised_latents_have_the_law_of_their_level(schedule: NoiseSchedule, start: int, stop: int) -> None:
    draws = torch.Generator().manual_seed(start)
    eps, noise = torch.randn(2, N, generator=draws, dtype=torch.float64)
    x0 = torch.where(torch.rand(N, generator=draws) < 0.5, -1.0, 1.0).double()
    x = schedule.alpha[start] * x0 + schedule.sigma[start] * eps
    assert _worst_z(schedule.renoise(x, start, stop, noise), x0, schedule, stop) < 4.5

    # the twin that forgets the noise that is there already, as code seen in public does
    broken = schedule.alpha[stop] / schedule.alpha[start] * x + schedule.sigma[stop] * noise
    assert _worst_z(broken, x0, schedule, stop) > 10
