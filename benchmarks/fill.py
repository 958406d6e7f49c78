"""How full are the batches of each sampler? Searches of a model that costs nothing, with and without mixed steps.

Fill is the share of the rows of all model calls that hold a candidate: 1 means that every call had as many rows as the
batch size allows. Several prompts search side by side, or one alone. The table has one row a sampler; its columns are
the calls and the fill where a call holds rows of one step only, and where each row may be at a step of its own
(genscale/engine/model_batches.py). Counts, not times: they are the same on every machine.

    python -m benchmarks.fill                        # 16 prompts, batches of 32; one prompt, batches of 16
    python -m benchmarks.fill --sampler dfs --steps 8
    python -m benchmarks.fill --json > benchmarks/results/fill.jsonl
    python -m benchmarks.fill --in-flight            # one prompt: larger waves, and what they cost in score
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from typing import Any

import torch

from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.engine.archive import Archive
from genscale.engine.budget import Budget
from genscale.engine.drive import drive
from genscale.engine.engine import Engine
from genscale.engine.ledger import Ledger
from genscale.engine.prior import Prior
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.key import Key
from genscale.media import Media
from genscale.plugins import registry
from genscale.protocol.batches import Batch, Output
from genscale.protocol.particles import Particles
from genscale.toy import analytic

DIM = 4
SAMPLERS = (
    "best_of_n", "smc", "beam", "zero_order", "search_over_paths", "evolution", "dts_star", "ab_mcts", "rollover",
    "dfs",
)  # fmt: skip


@dataclass(frozen=True)
class Filled:
    """What a run used: model calls, the share of their rows that held a candidate, and scorings (decoder calls)."""

    calls: int
    fill: float
    scorings: int


@dataclass(frozen=True)
class Euler:
    """The Euler step of the rectified flow."""

    times: tuple[float, ...]

    def step(self, particles: Particles, output: torch.Tensor, draw: Any) -> tuple[torch.Tensor, None]:
        t, s = self.times[particles.step], self.times[particles.step + 1]
        return particles.x + (s - t) * output, None


def filled(sampler: Any, prompts: int, batch: int, steps: int, nfe: int, mixed: bool) -> Filled:
    """Search `prompts` prompts with `nfe` each, `batch` rows in a call at most; the model points to a normal draw."""
    times = tuple(1 - i / steps for i in range(steps + 1))
    alpha = torch.tensor([1 - t for t in times], dtype=torch.float64)
    roles = Roles(VerifierSet((WeightedVerifier("first", first_coordinate),)))
    budget = Budget(nfe=nfe)
    searches = []
    for p in range(prompts):
        key = Key.from_seed(0).fold("prompt", p)
        parts = {
            "evaluations": (1,) * steps,
            "prior": Prior(torch.zeros(DIM), torch.ones(DIM), key.fold("own").normal((DIM,))),
            "solver": Euler(times),
            "view": View(NoiseSchedule(alpha, 1 - alpha), "flow"),
            "off_grid": None,
        }
        searches.append(Search.open(p, f"prompt {p}", sampler, key, budget, roles, **parts))
    rows: list[int] = []
    scorings: list[int] = []

    def decode(x: torch.Tensor, of: tuple[int, ...]) -> Media:
        scorings.append(len(x))
        return Media(x[:, :, None, None].clone())

    def evaluate(asked: Batch) -> Output:
        rows.append(len(asked.prompts))
        t = torch.tensor([times[s] for s in asked.steps or (asked.step,) * len(asked.prompts)])[:, None]
        clean = (1 - t) * asked.x / ((1 - t) ** 2 + t**2)  # of standard normal data
        return Output((asked.x - clean) / t, asked.x, len(asked.prompts))

    engine = Engine(
        searches, roles, decode, budget=budget, archive=Archive(), ledger=Ledger(), batch_size=batch
    )
    engine.mix_steps(mixed)
    drive(engine, evaluate)
    return Filled(len(rows), sum(rows) / (batch * len(rows)), len(scorings))


def in_flight(steps: int = 8, nfe: int = 200, runs: int = 100) -> None:
    """Print the fill of one prompt in batches of 16, and the best score against that of the default, paired, with 95 %
    intervals, on a mixture of three normal distributions whose first coordinate is the score."""
    means = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 1.0, 0.0], [0.0, -2.0, 1.0]])
    model, score = analytic.Mixture(means, 0.3), analytic.coordinate(0)
    print("| sampler | option | fill | mean best score | against the first |\n|---|---|---|---|---|")
    for name, option, values in (("dts_star", "wave", (8, 16, 32)), ("zero_order", "ahead", (1, 4))):
        before: list[float] = []
        for value in values:
            sampler = registry.make("sampler", name, {option: value})
            found = analytic.search(sampler, model, score, steps=steps, budget=f"{nfe}nfe", runs=runs)
            best = [float(entry.total) for s in found.searches if (entry := s.best()) is not None]
            before = before or best
            gaps = [b - a for a, b in zip(before, best, strict=True)]
            half = 1.96 * statistics.stdev(gaps) / len(gaps) ** 0.5
            fill = filled(sampler, 1, 16, steps, nfe, True).fill
            print(
                f"| {name} | {option}={value} | {fill:.2f} | {statistics.mean(best):.3f} "
                f"| {statistics.mean(gaps):+.3f} ± {half:.3f} |",
                flush=True,
            )


def first_coordinate(media: Media, prompts: Any) -> torch.Tensor:
    """A verifier that costs nothing."""
    return media.pixels[:, 0, 0, 0].double()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sampler", action="append", help=f"one of {', '.join(SAMPLERS)}; all by default")
    parser.add_argument("--steps", type=int, action="append", help="of the run; 8 and 20 by default")
    parser.add_argument("--nfe", type=int, default=200, help="budget of every prompt")
    parser.add_argument("--json", action="store_true", help="one line of JSON a case, instead of a table")
    parser.add_argument("--in-flight", action="store_true", help="the table of larger waves on one prompt")
    options = parser.parse_args()
    if options.in_flight:
        return in_flight()
    if not options.json:
        print("| sampler | prompts | batch | steps | calls | fill | calls, mixed | fill, mixed |")
        print("|---|---|---|---|---|---|---|---|")
    for prompts, batch in ((16, 32), (1, 16)):
        for steps in options.steps or (8, 20):
            for name in options.sampler or SAMPLERS:
                sampler = registry.make("sampler", name, {})
                one, mixed = (filled(sampler, prompts, batch, steps, options.nfe, m) for m in (False, True))
                case = {"sampler": name, "prompts": prompts, "batch": batch, "steps": steps}
                if options.json:
                    print(json.dumps(case | {"uniform": vars(one), "mixed": vars(mixed)}))
                    continue
                print(
                    "| " + " | ".join(str(v) for v in case.values())
                    + f" | {one.calls} | {one.fill:.2f} | {mixed.calls} | {mixed.fill:.2f} |",
                    flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
