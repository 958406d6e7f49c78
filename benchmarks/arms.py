"""Arms of guidance and steps: Thompson sampling and sequential halving against even allocation at equal NFE.

Every arm is a (guidance, steps) of the bundled model. Searched by CLIP; the exact judge is held out. Paired by prompt,
95 % intervals. `single` is best_of_n with one arm alone at the same budget: what choosing it beforehand would have
given. Captions: genscale.toy.hard_prompts; options are chosen on --half development, and figures are of the other.

    python benchmarks/arms.py --prompts 60 --single --json benchmarks/results/arms-flow.json
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from common import interval, parser_for, quiet_pipeline

import genscale
from genscale.protocol.particles import arm_of
from genscale.toy.hard_prompts import DEVELOPMENT, REPORT

COMPARED = ("even", "halving", "thompson")  # in_order is even with another order
CLIP, JUDGE = "shapes_clip", "shapes"
HALVES = {"report": REPORT, "development": DEVELOPMENT}


def arms_of(guidance: list[float], steps: list[int]) -> list[dict[str, Any]]:
    return [{"guidance_scale": g, "num_inference_steps": s} for s in steps for g in guidance]


def searched(pipe: Any, prompts: list[str], seed: int, **options: Any) -> Any:
    """The result of a search of all prompts with these options of the sampler."""
    scaled = genscale.scale(pipe, "arms", CLIP, held_out=JUDGE, batch_size=64, **options)
    return scaled.search(prompts, generator=torch.Generator().manual_seed(seed))


def winners(result: Any) -> dict[str, list[float]]:
    """By verifier, the score of each prompt's best candidate."""
    best = [result.ranking(i)[0] for i in range(len(result.prompts))]
    return {CLIP: [e.total for e in best], JUDGE: [e.held_out[JUDGE] for e in best]}


def row_of(
    name: str, result: Any, even: dict[str, list[float]], arms: list[dict[str, Any]]
) -> dict[str, Any]:
    found = winners(result)
    pulled = Counter(arm_of(e.candidate) for s in result.searches for e in s.finals)
    row: dict[str, Any] = {
        "allocation": name,
        "nfe": max(s.spent for s in result.searches),
        "candidates": sum(s.finished for s in result.searches) / len(result.searches),
        "of each arm": [pulled[i] / len(result.searches) for i in range(len(arms))],
    }
    for judge, values in found.items():
        row[judge] = interval(values)
        row[f"{judge} less even"] = interval([b - a for a, b in zip(even[judge], values, strict=True)])
    return row


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--guidance", type=float, nargs="+", default=(1.0, 3.0, 6.0))
    parser.add_argument("--steps", type=int, nargs="+", default=(4, 12))
    parser.add_argument("--budget", type=int, default=320, help="NFE a prompt")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--half", choices=HALVES, default="report")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--single", action="store_true", help="also each arm alone")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    pipe, every = quiet_pipeline(asked.model), HALVES[asked.half]
    prompts = [every[i * len(every) // asked.prompts].text for i in range(asked.prompts)]
    arms, budget = arms_of(list(asked.guidance), list(asked.steps)), f"{asked.budget}nfe"
    runs = {name: {"arms": arms, "allocate": name} for name in COMPARED}
    runs["thompson of means"] = {"arms": arms, "allocate": "thompson", "aim": "mean"}
    if asked.single:
        runs |= {f"single {json.dumps(arm)}": {"arms": [arm]} for arm in arms}
    rows, even = list[dict[str, Any]](), dict[str, list[float]]()
    for name, options in runs.items():
        result = searched(pipe, prompts, asked.seed, budget=budget, **options)
        even = even or winners(result)
        own = options["arms"]
        rows.append(row_of(name, result, even, own if isinstance(own, list) else arms))
        print(json.dumps(rows[-1]), flush=True)
    if asked.json is not None:
        settings = {k: v for k, v in vars(asked).items() if k != "json"}
        asked.json.write_text(json.dumps({**settings, "arms": arms, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
