"""Kernels: the transition from one noise level to the next, given the model's clean estimate.

All are Gaussian with known mean and std. In the limit of many steps all keep the marginals of the model. In few steps
they do not, and differ: of N(m, diag(1, .25, .06, .01)) under exact estimates, by exact propagation of mean and
variance (tests/test_few_steps.py), the W2 distance of the finished latents to the model's law is on flow levels

    calls   ode     ddim(0.5)  ddim(1)  sde(flow_grpo)  sde(rbf)  sde(1)
    8       .188    .204       .284     .078            .051      .039
    20      .079    .091       .139     .024            .022      .004
    50      .032    .039       .063     .006            .010      .001

and in the same order on variance-preserving levels. ddim loses variance, the more the larger eta: x0 is the mean of
what the latents could become, which varies less than they do, and eta draws anew the noise that made up for it. At 8
calls ddim(1) keeps 26 to 59 % of the variance of a coordinate, and sde(1) 53 to 97 %. So take sde(1) where a kernel
steps all along a short run; a few steps in the middle of one differ little.

They use the model only through the pair (x0, eps), so they work with every kind of prediction and every noise
schedule. The amount of noise is described by a number called churn: 0 is the ODE, and 1 is the time reversal of the
forward process ("ancestral", DDPM). It does not depend on the interpolant or the time grid, and to first order it
equals DDIM's eta.

From pure noise (alpha = 0) every kernel is deterministic. Otherwise the first step with eta = 1 would replace the
initial noise, and with it the result of a search over noise. The last step, to clean latents, adds no noise either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from genscale.call_syntax import parse_call
from genscale.diffusion.interpolants import Interpolant, named
from genscale.diffusion.noise_schedule import NoiseLevel
from genscale.errors import UsageError

FORMS = "own, ode, ddim(eta), sde(churn, interpolant), glass(inner, rho)"


@dataclass(frozen=True)
class Transition:
    """A Gaussian step: mean [n, *latent] and one std for all coordinates (0: a point mass)."""

    mean: Tensor
    std: float

    def sample(self, noise: Tensor) -> Tensor:
        """noise: [n, *latent], standard normal."""
        return self.mean if self.std == 0 else self.mean + self.std * noise.to(self.mean)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of x [n, *latent], float64 [n]; of a point mass 0 where x is the point, else -inf."""
        gap = (x.double() - self.mean.double()).flatten(1)
        if self.std == 0:
            return torch.where((gap == 0).all(1), 0.0, -math.inf).to(torch.float64)
        d = gap.shape[1]
        return -0.5 * (gap / self.std).square().sum(1) - d * math.log(self.std * math.sqrt(2 * math.pi))


class Kernel(Protocol):
    """A transition rule. deterministic: whether it adds no noise, so that copies of a particle stay identical."""

    @property
    def deterministic(self) -> bool: ...
    def calls(self, start: NoiseLevel) -> int:
        """Number of model calls of one transition from this level."""

    def transition(
        self, x: Tensor, x0: Tensor, eps: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> Transition:
        """The transition from latents x [n, *latent] at level `start` to level `stop`. x0, eps: the model's estimates
        at `start`, [n, *latent]."""


def ddim_step(x0: Tensor, eps: Tensor, stop: NoiseLevel, std: float) -> Transition:
    """alpha' x0 + sqrt(sigma'^2 - std^2) eps + std z.

    For true pairs (x0, eps) it keeps the marginal at `stop` for every std <= sigma'. With the model's estimates, which
    vary less, it loses variance, the more the larger the std and the fewer the steps (see the top of this file).
    """
    return Transition(stop.alpha * x0 + math.sqrt(max(stop.sigma**2 - std**2, 0.0)) * eps, std)


def ancestral_std(start: NoiseLevel, stop: NoiseLevel) -> float:
    """Std of the exact posterior of the forward process between two levels, sigma' sqrt(1 - rho^2)."""
    if math.isinf(start.kappa) or start.sigma == 0:
        return 0.0
    rho = stop.kappa / start.kappa
    return stop.sigma * math.sqrt(max(1 - rho**2, 0.0))


@dataclass(frozen=True)
class Own:
    """The pipeline's own scheduler. It steps by itself, so it has no `transition`."""

    deterministic: ClassVar[bool] = True

    def calls(self, start: NoiseLevel) -> int:
        return 1

    def transition(
        self, x: Tensor, x0: Tensor, eps: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> Transition:
        raise TypeError("the pipeline's own scheduler steps by itself: it has no transition")


@dataclass(frozen=True)
class Ddim:
    """DDIM(eta) (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16), for any interpolant.

    eta: 0 is the ODE (the Euler step for rectified flow), and 1 is ancestral sampling: std = eta sigma' sqrt(1 - rho^2)
    with rho = kappa' / kappa. Our default for flow models is 0.5, the noise of Flow-GRPO. Values above 1 are allowed,
    but std is at most sigma' (full renoising). Of the kernels here ddim(1) is furthest from the model's law in few
    steps (.284 in W2 at 8 calls, ode .188, sde(1) .039).
    """

    eta: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise UsageError(f"ddim(eta={self.eta}) needs an eta of 0 or more; 1 is ancestral sampling.")

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

    def calls(self, start: NoiseLevel) -> int:
        return 1

    def transition(
        self, x: Tensor, x0: Tensor, eps: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> Transition:
        return ddim_step(x0, eps, stop, min(self.eta * ancestral_std(start, stop), stop.sigma))


CHURNS: dict[str, Callable[[Interpolant, float], float]] = {
    # Squared churn at a time of the interpolant: g^2 divided by the interpolant's diffusion(t).
    "ancestral": lambda path, t: 1.0,
    "flow_grpo": lambda path, t: 0.7**2 / 2,  # g = .7 sqrt(t / (1 - t)) on the linear one, arXiv 2505.05470
    "rbf": lambda path, t: 9 * t**4 / path.diffusion(t),  # g = 3 t^2, arXiv 2503.19385, section 5.1
    "fading": lambda path, t: (
        1 / (1 + path.kappa(t))
    ),  # c^2 = 1 - t of the linear time, "sigma" in RBF's code
}


@dataclass(frozen=True)
class Sde:
    """Euler-Maruyama along an interpolant: x <- x - (u - g^2/2 s) dt + g sqrt(dt) z, g^2 = churn^2 2 sigma D / alpha.

    (Kim et al. 2025, arXiv 2503.19385, eq. 7; Song et al. 2021.) churn: a number, or a name of CHURNS. interpolant: a
    name, "polynomial:2" with its order; latents are converted at equal noise-to-signal ratio (RBF's conversion from
    linear to VP is interpolant="vp"). First order; churn is limited so that the noise does not exceed that of the next
    level. In few steps churn 1 is nearest to the model's law of the kernels that call the model once a step (.039 in W2
    at 8 calls, where ddim(1) has .284).
    """

    churn: float | str = "rbf"
    interpolant: str = "linear"

    def __post_init__(self) -> None:
        known = isinstance(self.churn, str) and self.churn in CHURNS
        if not known and not (isinstance(self.churn, int | float) and 0 <= self.churn < math.inf):
            raise UsageError(
                f"sde(churn={self.churn}) needs a number of 0 or more, or one of {', '.join(CHURNS)}."
            )
        if self.churn == "rbf" and self.interpolant == "ve":
            raise UsageError(
                "sde(rbf, ve) is not defined: g = 3 t^2 is for times in [0, 1]; give a number as churn."
            )
        try:
            named(self.interpolant)
        except ValueError as error:
            raise UsageError(f"sde(interpolant={self.interpolant}): {error}.") from None

    @property
    def deterministic(self) -> bool:
        return self.churn == 0

    def calls(self, start: NoiseLevel) -> int:
        return 1

    def squared_churn(self, path: Interpolant, t: float) -> float:
        return CHURNS[self.churn](path, t) if isinstance(self.churn, str) else float(self.churn) ** 2

    def transition(
        self, x: Tensor, x0: Tensor, eps: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> Transition:
        if math.isinf(start.kappa) or start.sigma == 0 or stop.sigma == 0:
            return ddim_step(x0, eps, stop, 0.0)
        path = named(self.interpolant)
        t, r = path.time(start.kappa), path.time(stop.kappa)
        dt, scale = t - r, path.level(t)[0] / start.alpha
        back = stop.alpha / path.level(r)[0]
        square = self.squared_churn(path, t) * path.diffusion(t)
        if dt > 0:  # no more noise than the next level has; the drift is limited with it
            square = min(square, (stop.sigma / back) ** 2 / dt)
        drift = path.velocity(t, x0, eps) - square / 2 * path.score(t, eps)
        return Transition(back * (scale * x - dt * drift), back * math.sqrt(square * max(dt, 0.0)))


@dataclass(frozen=True)
class Glass:
    """GLASS (arXiv 2509.25170, section 3): a stochastic transition, sampled by an inner ODE of `inner` model calls.

    rho: correlation of the noises of both levels, in (-1, 1); None: that of ancestral sampling, kappa' / kappa. The
    paper's default is 0.4 with 6 outer transitions. With few inner calls a constant rho does not converge as the outer
    grid gets finer, so our default is None. With inner = 1 it is DDIM with std = sigma' sqrt(1 - rho^2).

    The inner path starts at xbar = gbar x + s0 z (s0 = 1) and ends at x', gbar = rho sigma' / sigma. At inner time q,
    x and xbar together are one observation of x0 with noise-to-signal ratio kappa*(q), at which the model is called.
    That is between the levels of the pipeline's grid, so the model must accept any time (flow models do; discrete ones
    are given a timestep between two trained ones).
    """

    inner: int = 4
    rho: float | None = None

    deterministic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.inner < 1 or self.inner != int(self.inner) or not (self.rho is None or -1 < self.rho < 1):
            raise UsageError(
                f"glass(inner={self.inner}, rho={self.rho}) needs inner >= 1 and -1 < rho < 1 or none."
            )

    def calls(self, start: NoiseLevel) -> int:
        return 1 if math.isinf(start.kappa) else self.inner

    def transition(
        self, x: Tensor, x0: Tensor, eps: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> Transition:
        """The transition with one inner call."""
        return ddim_step(x0, eps, stop, self._path(start, stop)[2])

    def begin(self, x: Tensor, noise: Tensor, start: NoiseLevel, stop: NoiseLevel) -> Tensor:
        """The inner latents xbar at q = 0."""
        return self._path(start, stop)[0] * x + noise.to(x)

    def observation(
        self, j: int, x: Tensor, bar: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> tuple[Tensor, float]:
        """The observation x0 + kappa eps [n, *latent] at which the model is called for inner step j, and its kappa."""
        if j == 0:
            return x / start.alpha, start.kappa
        gbar, end_alpha, end_sigma = self._path(start, stop)
        q = j / self.inner
        alpha, sigma = q * end_alpha, (1 - q) + q * end_sigma
        # x = start.alpha x0 + start.sigma e, and bar - gbar x = alpha x0 + sigma e', independent noises.
        one, other = start.alpha / start.sigma**2, alpha / sigma**2
        precision = start.alpha * one + alpha * other
        return (one * x + other * (bar - gbar * x)) / precision, 1 / math.sqrt(precision)

    def advance(
        self, j: int, x: Tensor, bar: Tensor, x0: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> Tensor:
        """The inner latents after step j, whose model call gave x0; exact if the estimate does not change."""
        gbar, end_alpha, end_sigma = self._path(start, stop)
        q, r = j / self.inner, (j + 1) / self.inner
        noise = (bar - gbar * x - q * end_alpha * x0) / ((1 - q) + q * end_sigma)
        return gbar * x + r * end_alpha * x0 + ((1 - r) + r * end_sigma) * noise

    def _path(self, start: NoiseLevel, stop: NoiseLevel) -> tuple[float, float, float]:
        """(gbar, abar, sbar) of x' = gbar x + abar x0 + sbar z."""
        rho = stop.kappa / start.kappa if self.rho is None else self.rho
        if math.isinf(start.kappa):
            rho = 1.0
        gbar = rho * stop.sigma / start.sigma
        return gbar, stop.alpha - gbar * start.alpha, stop.sigma * math.sqrt(max(1 - rho**2, 0.0))


KERNELS: dict[str, type[Own | Ddim | Sde | Glass]] = {"own": Own, "ddim": Ddim, "sde": Sde, "glass": Glass}


def parse_kernel(text: str | Kernel) -> Kernel:
    """A kernel from "ode", "ddim(0.5)", "sde(rbf, vp)", "sde(churn=0.5)", "glass(inner=4, rho=0.4)", or itself."""
    if not isinstance(text, str):
        if not isinstance(getattr(text, "deterministic", None), bool):
            raise UsageError(f"{text!r} is no kernel: give one, or text such as 'ddim(0.5)' or 'sde(rbf)'.")
        return text
    call = parse_call(text)
    name = "" if call is None else call.name.lower()
    if name == "ode":
        return Ddim(0.0)
    if call is None or name not in KERNELS:
        raise UsageError(f"kernel '{text}' is unknown: write one of {FORMS}.")
    cls = KERNELS[name]
    names, values = [f.name for f in fields(cls)], dict[str, Any]()
    for place, (option, value) in enumerate(call.arguments):
        where = f"{option}={value}" if option else value
        if not option and place < len(names):
            option = names[place]
        if option not in names or option in values:
            raise UsageError(f"kernel '{text}' cannot be read at '{where}': write one of {FORMS}.")
        values[option] = _value(option, value, text)
    made: Kernel = cls(**values)
    return made


parse = parse_kernel  # the short name that samplers use


def _value(option: str, value: str, text: str) -> object:
    if option == "interpolant" or (option == "churn" and not _is_number(value)):
        return value
    if option == "rho" and value.lower() in ("none", "ddpm", "ancestral"):
        return None
    if not _is_number(value):
        raise UsageError(f"kernel '{text}': {option} must be a number, not '{value}'.")
    return int(value) if option == "inner" and value.isdigit() else float(value)


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
