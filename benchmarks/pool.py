"""What a shared budget (`pool`) gains over even ones, with best_of_n: paired by prompt, 95 % intervals.

`--candidates` candidates of each prompt of the shapes world are made once and scored by CLIP and by the exact judge. A
search with a smaller budget sees the first of them, so all budgets and both ways to divide them are read off that
table, by the engine itself. Searched: by CLIP (gains from fitted normal distributions), and by the judge as a verifier
that is never wrong (gains from probabilities), which is the ceiling.

    python benchmarks/pool.py --model shapes-flow --steps 4 --json benchmarks/results/pool-flow-4.json
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import interval, parser_for, quiet_pipeline, spread_prompts
from torch import Tensor

import genscale
from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.engine.archive import Archive
from genscale.engine.budget import Budget
from genscale.engine.drive import drive
from genscale.engine.engine import Engine
from genscale.engine.ledger import Ledger
from genscale.engine.pool import Purse
from genscale.engine.prior import Prior
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.key import Key
from genscale.media import Media
from genscale.protocol.batches import Output
from genscale.protocol.particles import Particles
from genscale.samplers.best_of_n import BestOfN

CLIP, JUDGE = "shapes_clip", "shapes"


def scores(
    model: str, steps: int, prompts: list[str], candidates: int, seed: int
) -> dict[str, list[list[float]]]:
    """By verifier, the scores of the candidates of each prompt [prompts, candidates]."""
    pipe, found = quiet_pipeline(model), {CLIP: [], JUDGE: []}
    scaled = genscale.scale(
        pipe, "best_of_n", [(CLIP, 1.0), (JUDGE, 0.0)], candidates=candidates, batch_size=64
    )
    for first in range(0, len(prompts), 10):
        generator = torch.Generator().manual_seed(seed + first)
        result = scaled.search(
            prompts[first : first + 10], num_inference_steps=steps, guidance_scale=3.0, generator=generator
        )
        for search in result.searches:
            for name, rows in found.items():
                rows.append([e.scores[name] for e in search.finals])
    return found


@dataclass
class Told:
    """A verifier that gives the n-th candidate of a prompt its n-th score."""

    rows: list[list[float]]
    answers_probability: bool = False
    seen: Counter[int] = field(default_factory=Counter)

    def __call__(self, media: Any, prompts: Any) -> list[float]:
        told = []
        for prompt in map(int, prompts):
            told.append(self.rows[prompt][self.seen[prompt]])
            self.seen[prompt] += 1
        return told


class Nothing:
    """The step of a model that has one."""

    def step(self, particles: Particles, output: Tensor, draw: Any) -> tuple[Tensor, None]:
        return particles.x, None


def searched(verifier: Told, images: int, pool: bool, target: float | None) -> list[tuple[int, int]]:
    """For each prompt the place of its best candidate, and how many it had."""
    roles, budget = (
        Roles(VerifierSet((WeightedVerifier("told", verifier),))),
        Budget(nfe=images, target=target),
    )
    alpha = torch.tensor([0.0, 1.0], dtype=torch.float64)
    parts = {
        "evaluations": (1,), "prior": Prior(torch.zeros(1), torch.ones(1), torch.zeros(1)), "solver": Nothing(),
        "view": View(NoiseSchedule(alpha, 1 - alpha), "flow"),
    }  # fmt: skip
    sampler = BestOfN(len(verifier.rows[0]), wave=1 if target is not None else 16)
    searches = [
        Search.open(i, str(i), sampler, Key((i,)), budget, roles, pool=pool, **parts)
        for i in range(len(verifier.rows))
    ]
    engine = Engine(
        searches, roles, lambda x, _: Media(torch.zeros(len(x), 1, 1, 1)), budget=budget, archive=Archive(),
        ledger=Ledger(), batch_size=4096, purse=Purse(searches) if pool else None,
    )  # fmt: skip
    drive(engine, lambda batch: Output(torch.zeros_like(batch.x), batch.x, len(batch.prompts)))
    return [(s.ranking()[0].candidate.id, s.finished) for s in searches]


def compared(
    found: dict[str, list[list[float]]], judge: str, images: int, target: float | None
) -> dict[str, Any]:
    """Even and shared budgets of so many images a prompt, searched by one of the verifiers."""
    made: dict[bool, list[tuple[int, int]]] = {
        pool: searched(Told(found[judge], judge == JUDGE), images, pool, target) for pool in (False, True)
    }
    row: dict[str, Any] = {"searched": judge, "images": images, "target": target}
    for name, rows in found.items():
        even, shared = ([rows[i][best] for i, (best, _) in enumerate(made[pool])] for pool in (False, True))
        row[name] = {
            "even": interval(even), "shared": interval(shared),
            "gain": interval([b - a for a, b in zip(even, shared, strict=True)]),
        }  # fmt: skip
    row["mean candidates"] = {
        "even": interval([n for _, n in made[False]])[0], "shared": interval([n for _, n in made[True]])[0]
    }  # fmt: skip
    row["candidates of a prompt"] = [min(n for _, n in made[True]), max(n for _, n in made[True])]
    return row


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--candidates", type=int, default=48)
    parser.add_argument(
        "--images", type=int, nargs="+", default=(2, 4, 8), help="budgets, in images a prompt"
    )
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    prompts = [prompt.text for prompt in spread_prompts(asked.prompts)]
    found = scores(asked.model, asked.steps, prompts, asked.candidates, asked.seed)
    rows = [compared(found, CLIP, images, None) for images in asked.images]
    rows += [compared(found, JUDGE, images, 1.0) for images in asked.images]
    for row in rows:
        print(json.dumps(row))
    if asked.json is not None:
        settings = {k: v for k, v in vars(asked).items() if k != "json"}
        asked.json.write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
