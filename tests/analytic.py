"""The exact test bed: a Gaussian mixture, whose denoiser is known in closed form, for the engine to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genscale.algorithms.noise_ascent import NoiseGradient
from genscale.diffusion.mixtures import Mix, MixtureContext, Source, Weighted
from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.engine.archive import Archive
from genscale.engine.budget import Budget
from genscale.engine.drive import drive
from genscale.engine.engine import Engine
from genscale.engine.ledger import Ledger
from genscale.engine.mixture_batches import Mixer
from genscale.engine.pool import TOGETHER, Purse
from genscale.engine.pool_gains import Gains
from genscale.engine.prior import Prior
from genscale.engine.search import Search
from genscale.engine.stopping import Stop
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.key import Key
from genscale.media import Media
from genscale.protocol.batches import Batch, Output
from genscale.protocol.particles import Memory, Particles
from genscale.protocol.queries import BACKWARD
from genscale.samplers.ab_mcts import AbMcts
from genscale.samplers.accept_reject import AcceptReject
from genscale.samplers.annealing import Annealing
from genscale.samplers.beam import Beam
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.bfs import Bfs
from genscale.samplers.carinox import Carinox
from genscale.samplers.cem_lowfreq import CemLowfreq
from genscale.samplers.cma_es import CmaEs
from genscale.samplers.code import Code
from genscale.samplers.das import Das
from genscale.samplers.dflow import DFlow
from genscale.samplers.dfs import Dfs
from genscale.samplers.ditto import Ditto
from genscale.samplers.ditto2 import Ditto2
from genscale.samplers.dlbs import Dlbs
from genscale.samplers.dno import Dno
from genscale.samplers.dts import Dts
from genscale.samplers.dts_star import DtsStar
from genscale.samplers.evolution import Evolution
from genscale.samplers.fk_steering import FkSteering
from genscale.samplers.fkc import Fkc
from genscale.samplers.gradient_guidance import GradientGuidance
from genscale.samplers.importance import Importance
from genscale.samplers.nlg import Nlg
from genscale.samplers.particle_gibbs import ParticleGibbs
from genscale.samplers.rebirth import Rebirth
from genscale.samplers.reno import Reno
from genscale.samplers.rollover import Rollover
from genscale.samplers.search_over_paths import SearchOverPaths
from genscale.samplers.smc import Smc
from genscale.samplers.snes import Snes
from genscale.samplers.successive_halving import SuccessiveHalving
from genscale.samplers.svdd import Svdd
from genscale.samplers.tds import Tds
from genscale.samplers.treeg import TreeG
from genscale.samplers.trust_region import TrustRegion
from genscale.samplers.vasr import Vasr
from genscale.samplers.zero_order import ZeroOrder
from genscale.samplers.zigzag import Zigzag

DIM = 3

# Every registered sampler, in the ways that differ; test_samplers.py holds the table complete.
SAMPLERS: dict[str, Any] = {
    "best_of_n": BestOfN(8),
    "best_of_n until the budget ends": BestOfN(),
    "best_of_n with previews": BestOfN(8, previews=(0.3, 0.6)),
    "best_of_n pruned": BestOfN(9, prune=(0.3, 0.6)),
    "best_of_n pruned, until the budget ends": BestOfN(prune=(0.5,), survivors=0.4),
    "successive_halving": SuccessiveHalving(9),
    "successive_halving, until the budget ends": SuccessiveHalving(rungs=(0.2, 0.7), survivors=0.3),
    "zero_order": ZeroOrder(),
    "zero_order, three rounds ahead": ZeroOrder(neighbours=3, ahead=3, patience=2),
    "zero_order of 2 rounds": ZeroOrder(neighbours=3, rounds=2, patience=2),
    "annealing": Annealing(),
    "annealing of 3 rounds": Annealing(proposals=3, turn=0.3, temperature=1.0, final=0.1, rounds=3),
    "cem_lowfreq": CemLowfreq(population=4, elites=2, level=1),
    "cem_lowfreq of 2 generations": CemLowfreq(population=5, elites=1, level=0, spread=0.6, rounds=2),
    "cma_es": CmaEs(generations=2),
    "cma_es of 2 generations": CmaEs(population=4, share=0.2, rounds=2),
    "snes": Snes(generations=2),
    "snes of 2 generations": Snes(population=3, share=0.2, rounds=2),
    "trust_region": TrustRegion(regions=3, batch=4),
    "trust_region of 2 rounds": TrustRegion(regions=2, batch=5, warmup=3, patience=1, rounds=2),
    "importance": Importance(6),
    "smc": Smc(8),
    "smc of all that the budget pays for": Smc(window=(0.3, 0.9), interval=0.0, ess=0.7, temper="adaptive"),
    "smc, glass": Smc(6, kernel="glass(2)"),
    "smc with children": Smc(3, children=2, rest="ode", kernel="sde(0.7, vp)"),
    "fk_steering": FkSteering(),
    "fkc": Fkc(6, ess=1.0),
    "fkc of all that the budget pays for": Fkc(kernel="ddim(1)", window=(0.3, 0.9), ess=0.9, clamp=1.0),
    "das": Das(4),
    "das as published": Das(4, gradient="model", window=(0.0, 1.0), rest="ddim(1)"),
    "das, without its gradient": Das(gradient="none"),
    "tds": Tds(4),
    "tds as published": Tds(gradient="model", window=(0.0, 1.0), rest="ddim(1)"),
    "tds through the decoder": Tds(gradient="decoder", interval=0.3, window=(0.3, 0.8), reach=0.5),
    "gradient_guidance": GradientGuidance(),
    "gradient_guidance again and again": GradientGuidance(
        3, through="model", normalise="each", recurrence=2, kernel="ddim(0.7)", window=(0.2, 0.6), clip=0.5
    ),
    "bfs": Bfs(6),
    "vasr": Vasr(6, temper="damped"),
    "vasr of the largest masses": Vasr(offspring="max"),
    "rebirth": Rebirth(6),
    "svdd": Svdd(children=4),
    "svdd along the gradient": Svdd(2, children=3, gradient="model", push=2.0),
    "code": Code(2, children=4),
    "particle_gibbs": ParticleGibbs(3, sweeps=3),
    "particle_gibbs until the budget ends": ParticleGibbs(4, sweeps=None),
    "nlg": Nlg(repeats=2),
    "nlg of a few": Nlg(3, repeats=3, clip=0.1, jitter=0.0),
    "zigzag": Zigzag(),
    "zigzag of a few": Zigzag(3, until=0.5),
    "rollover": Rollover(),
    "rollover in batches": Rollover(batch=3, kernel="ddim(1)", init=0.3, most=float("inf")),
    "rollover on its own levels": Rollover(kernel="sde(rbf, vp)", levels="rbf", chains=3),
    "rollover on the ode": Rollover(kernel="ode", calls=60),
    "evolution": Evolution(start=6, levels=(0.0, 0.4, 0.7), sizes=(4, 4, 5), elites=1),
    "evolution of initial noise": Evolution(start=3, levels=(0.0, 0.0), sizes=3, elites=0, kernel="own"),
    "dts": Dts(),
    "dts_star": DtsStar(12, wave=4),
    "ab_mcts": AbMcts(),
    "ab_mcts one by one": AbMcts(10, wave=1, levels=(0.2, 0.6)),
    "dfs": Dfs(),
    "dfs below a number": Dfs(threshold=1.0, checks=(0.3, 0.5, 0.7), back=0.5, backtracks=3),
    "accept_reject": AcceptReject(accept=2.2, reject=(1.0,), checks=(0.3, 0.6)),
    "accept_reject, sent back in waves": AcceptReject(
        accept=2.5, reject=(0.5, 1.0), checks=(0.3, 0.6), back=0.25, backtracks=2, wave=3
    ),
    "accept_reject, finished ones only": AcceptReject(accept=2.4),
    "beam": Beam(8, survivors=(3, 2, 2), branch=(2, 3, 2), lookahead=2, diversity=1.0),
    "beam of all that the budget pays for": Beam(),
    "beam, glass": Beam(4, survivors=0.4, kernel="glass(2)"),
    "beam without branches": Beam(9, survivors=0.5, branch=1, kernel="ode"),
    "dlbs": Dlbs(),
    "treeg": TreeG(6, survivors=2, branch=3),
    "search_over_paths": SearchOverPaths(),
    "search_over_paths of one": SearchOverPaths(paths=1, branches=1),
    "search_over_paths, wide": SearchOverPaths(paths=2, branches=3, start=0.5, forward=0.3, backward=0.5),
    "reno": Reno(),
    "reno of 3 turns": Reno(iterations=3, starts=2, trials=0),
    "carinox": Carinox(),
    "carinox of 2 turns": Carinox(iterations=2, starts=3, trials=0),
    "ditto": Ditto(iterations=2, trials=0),
    "ditto2": Ditto2(iterations=3, starts=3, opt_steps=2, finals=2, trials=0),
    "ditto2 until the budget ends": Ditto2(starts=2, warmup=0.0, trials=0),
    "ditto2 with trials": Ditto2(starts=2, trials=2, opt_steps=3),
    "dno": Dno(iterations=2, trials=0),
    "dno with trials": Dno(trials=2, warmup=0.3),
    "dno of a black box": Dno(iterations=1, starts=2, blackbox=True, batch=2),
    "dflow": DFlow(iterations=3, trials=0),
    "dflow with trials": DFlow(starts=2, warmup=0.3),
}

# These ask for gradients, which rank ensembles and an empty verifier set do not have.
CLIMBERS = {n for n, sampler in SAMPLERS.items() if isinstance(sampler, NoiseGradient)}


def asks_for_gradients(name: str) -> bool:
    """Whether a sampler of the table needs verifiers that can be differentiated, which ranks cannot."""
    sampler = SAMPLERS[name]
    own = isinstance(sampler, GradientGuidance | NoiseGradient)
    return own or getattr(sampler, "gradient", "none") != "none"


@dataclass(frozen=True)
class Mixture:
    """Isotropic Gaussian mixture under the rectified-flow interpolant x = (1 - t) x0 + t eps."""

    means: Tensor = field(default_factory=lambda: torch.tensor([[2.0, 0, 0], [-2.0, 1, 0], [0, -2.0, 1]]))
    std: float = 0.3

    def clean(self, x: Tensor, t: float) -> Tensor:
        """E[x0 | x_t = x], float64."""
        x, means, alpha = x.double(), self.means.double(), 1 - t
        var = (alpha * self.std) ** 2 + t**2
        gap = x[:, None] - alpha * means  # [n, components, dim]
        weight = torch.softmax(-(gap**2).sum(-1) / (2 * var), 1)
        each = means + alpha * self.std**2 / var * gap
        return (weight[..., None] * each).sum(1)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        return ((x.double() - self.clean(x, t)) / t).to(x.dtype)


@dataclass(frozen=True)
class Euler:
    """The Euler step of the flow; with churn also noise, and a memory of the steps and the last output."""

    times: tuple[float, ...]
    churn: float = 0.0

    def step(self, particles: Particles, output: Tensor, draw: Any) -> tuple[Tensor, Memory]:
        t, s = self.times[particles.step], self.times[particles.step + 1]
        x = particles.x + (s - t) * output
        if self.churn:
            x = x + self.churn * s * draw(0)
        return x, Memory({"last": output}, {"steps": particles.step + 1})


@dataclass
class Run:
    """What a run on the bed gave."""

    engine: Engine
    searches: list[Search]
    archive: Archive
    ledger: Ledger
    batches: list[Batch]

    @property
    def winners(self) -> list[Any]:
        return [s.best() for s in self.searches]


def first_coordinate(media: Media, prompts: Any) -> Tensor:
    """A verifier that reads the first coordinate off the bed's images."""
    return media.pixels[:, 0, 0, 0].double()


def pictures(x: Tensor, prompts: tuple[int, ...]) -> Media:
    """The bed's decoder: a latent is an image of one pixel."""
    return Media(x[:, :, None, None].clone())


class Full:
    """A decoder on a GPU that holds two images."""

    def __init__(self, fits: int) -> None:
        self.fits, self.tried = fits, 0

    def __call__(self, x: Tensor, prompts: tuple[int, ...]) -> Media:
        self.tried += 1
        if len(x) > self.fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return pictures(x, prompts)


def process_of(
    steps: int = 6,
    guided: int | Sequence[int] = 1,
    churn: float = 0.0,
    seed: int = 0,
    prompt: int = 0,
    dim: int = DIM,
) -> dict[str, Any]:
    """The parts of a prompt's process on the bed, as `Search.open` and `plan` take them."""
    times = tuple(1 - i / steps for i in range(steps + 1))
    alpha = torch.tensor([1 - t for t in times], dtype=torch.float64)
    key = Key.from_seed(seed).fold("prompt", prompt)
    own = key.fold("own").normal((dim,))

    def own_draw(step: int, draw: int) -> Tensor:
        return key.fold("own-step", step, draw).normal((dim,))

    return {
        "evaluations": (guided,) * steps if isinstance(guided, int) else tuple(guided),
        "prior": Prior(torch.zeros(dim), torch.ones(dim), own),
        "solver": Euler(times, churn),
        "view": View(NoiseSchedule(alpha, 1 - alpha), "flow"),
        "own_draw": own_draw,
        "off_grid": None,
        "of_branch": lambda step: 1,
    }


def answered(mixture: Mixture, batch: Batch, times: Sequence[float]) -> Tensor:
    """The model's answer, with its graph and a checkpoint as the batch asks."""
    if batch.steps is not None:
        rows = zip(batch.x.split(1), batch.steps, strict=True)
        return torch.cat([mixture.velocity(x, times[step]) for x, step in rows])
    t = times[batch.step] if batch.time is None else batch.time
    with torch.set_grad_enabled(batch.grad):
        if batch.checkpoint:
            return checkpoint(mixture.velocity, batch.x, t, use_reentrant=False)
        return mixture.velocity(batch.x, t)


def price_of(batch: Batch, passes: int = 1) -> int:
    """What one row of a batch counts, as a multiple of a model call: it may be differentiated so many times."""
    return 1 + passes * (batch.checkpoint + BACKWARD) if batch.grad else 1


def under_way(engine: Engine) -> list[tuple[int, int]]:
    """(prompt, candidate id) of the rows of the open batch."""
    return [(prompt, candidate.id) for prompt, candidate in engine.evaluated]


MIX = Weighted((Source(), Source(model="broad")), (1.5, -0.5))
"""What samplers that need a mix are given, unless a test gives them one."""


def mixed(parts: dict[str, Any], mix: Mix) -> dict[str, Any]:
    """The parts of a process whose predictions are mixed, every source at the cost of the model's own."""
    own, view = parts["evaluations"], parts["view"]
    calls = len(own)
    weights = [mix.weights(MixtureContext.at(view, i, calls)) for i in range(calls)]
    each = (nfe * sum(w != 0 for w in at) for nfe, at in zip(own, weights, strict=False))
    return parts | {"mix": mix, "evaluations": tuple(each)}


def parts_for(sampler: Any, steps: int = 6, guided: int | Sequence[int] = 1) -> dict[str, Any]:
    """The parts of the process that `run` gives a sampler."""
    parts = process_of(steps, guided)
    return mixed(parts, MIX) if "mix" in getattr(sampler, "needs", ()) else parts


def run(
    sampler: Any,
    *,
    budget: Budget | None = None,
    prompts: int = 1,
    steps: int = 6,
    guided: int | Sequence[int] = 1,
    seed: int = 0,
    batch_size: int = 4,
    churn: float = 0.0,
    folder: Path | None = None,
    verifier: Any = first_coordinate,
    roles: Roles | None = None,
    on_batch: Any = None,
    on_event: Any = lambda event: None,
    decode: Any = None,
    fits: int | None = None,
    heading: dict[str, Any] | None = None,
    keep: int = 1,
    results: int = 1,
    stop: Any = None,
    more: dict[str, Any] | None = None,
    mixture: Any = None,
    mix: Any = None,
    models: Mapping[str, Any] | None = None,
    dim: int = DIM,
    pool: bool = False,
    gains: Gains | None = None,
    together: int = TOGETHER,
    mix_steps: bool = False,
) -> Run:
    """Run a sampler for `prompts` prompts on the mixture.

    guided: NFE of a row at each step, as CFG would cost; a sequence gives each step its own. on_batch: called
    before each batch with the batch and the (prompt, candidate id) of its rows. decode: instead of the bed's.
    fits: rows of a batch that fit into memory; larger ones fail as on a GPU. stop: rules, or their text.
    more: parts of the process that differ from the bed's. mixture: another model than the bed's; dim: of its latents.
    mix: of predictions; the sources' models and branches are answered by `models`, or by `mixture`. A sampler that
    needs one is given MIX. pool: the prompts share their budgets; gains, together: of the Purse.
    mix_steps: batches may hold rows of different steps.
    A prompt's noise depends on its number and the seed alone.
    """
    budget, mixture = budget or Budget(), mixture or Mixture()
    if mix is None and "mix" in getattr(sampler, "needs", ()):
        mix, models = MIX, {"broad": Mixture(std=0.6)}
    if "branches" in getattr(sampler, "needs", ()):
        models = {"uncond": Mixture(std=0.6), **(models or {})}
    roles = roles or Roles(VerifierSet((WeightedVerifier("first", verifier),)))
    archive, ledger, batches = Archive(folder, heading or {"seed": seed}), Ledger(), []
    searches = []
    for p in range(prompts):
        parts = process_of(steps, guided, churn, seed, p, dim) | (more or {})
        own, mixer = parts["evaluations"], None
        if mix is not None:
            mixer = Mixer(mix, parts["view"], len(own), rated=True)
            parts = mixed(parts, mix)
        key = Key.from_seed(seed).fold("prompt", p)
        searches.append(
            Search.open(
                p,
                f"prompt {p}",
                sampler,
                key,
                budget,
                roles,
                keep=keep,
                results=results,
                stop=Stop.of(stop),
                pool=pool,
                **parts,
            )
        )
    times = parts["solver"].times
    engine = Engine(
        searches, roles, decode or pictures, budget=budget, archive=archive, ledger=ledger,
        batch_size=batch_size, on_event=on_event, purse=Purse(searches, gains, together) if pool else None,
    )  # fmt: skip

    engine.mix_steps(mix_steps)

    def evaluate(batch: Batch) -> Output:
        if fits is not None and len(batch.prompts) > fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        batches.append(batch)
        if on_batch is not None:
            on_batch(batch, under_way(engine))
        asked = batch if mixer is None else mixer.open(batch)
        while isinstance(asked, Batch):
            model = (models or {}).get(asked.branch or asked.model, mixture)
            each = 1 if batch.branch else own[asked.step]
            output = Output(answered(model, asked, times), asked.x, each * len(asked.prompts))
            asked = output if mixer is None else mixer.absorb(output)
        return asked

    try:
        drive(engine, evaluate)
    finally:
        archive.close()
    return Run(engine, searches, archive, ledger, batches)
