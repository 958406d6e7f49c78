"""Does climbing the reward of the noise pay? Every noise optimiser against best_of_n at equal NFE.

A budget counts what a gradient costs: a forward of every call, two more for going back through it, and one for what
is computed again on the way; so one through all calls is as dear as four candidates. Searched with the bundled CLIP,
the exact judge held out; every prompt has its own seed; ± is a 95 % interval over prompts, gains are paired with
best_of_n.

    python -m benchmarks.noise_gradients --model shapes-flow --json benchmarks/results/noise-gradients-flow.json
    python -m benchmarks.noise_gradients --show benchmarks/results/noise-gradients-flow.json

What the winners' noises look like is kept as well: how far they moved, and how plausible they are as normal noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import genscale
from benchmarks.common import parser_for, quiet_pipeline, spread_prompts
from benchmarks.shapes import Table

# As they come, but for ditto2, whose one call shows nothing of the image on a model that is not distilled.
PUBLISHED: dict[str, Any] = {"warmup": 0.0, "trials": 0}
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "best_of_n": ("best_of_n", {}),
    "reno": ("reno", {}),
    "carinox": ("carinox", {}),
    "ditto": ("ditto", {}),
    "ditto2 (4 calls)": ("ditto2", {"opt_steps": 4}),
    "dno": ("dno", {}),
    "dflow": ("dflow", {}),
    "reno (as published)": ("reno", PUBLISHED),
    "carinox (as published)": ("carinox", PUBLISHED),
    "ditto (as published)": ("ditto", PUBLISHED),
    "ditto2 (as published, 1 call)": ("ditto2", PUBLISHED),
    "dno (as published)": ("dno", PUBLISHED),
    "dflow (as published)": ("dflow", PUBLISHED),
}


def main() -> None:
    options = parsed()
    if options.show:
        print(Table(json.loads(options.show.read_text())["categories"], options.show))
        return
    pipe = quiet_pipeline(options.model, 1, device=options.device, dtype=options.dtype)
    prompts = spread_prompts(options.prompts)
    table = Table([p.category for p in prompts], options.json)
    for nfe in options.nfe:
        for label in options.searches or SEARCHES:
            if (label, nfe) not in table.done:
                compare(table, pipe, prompts, label, nfe, options)


def parsed() -> argparse.Namespace:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--prompts", type=int, default=32, help="so many, spread over the fixed list")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--nfe", type=int, nargs="+", default=[300, 1000], help="budgets a prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES))
    parser.add_argument("--json", type=Path, help="written after each search; what it holds is kept")
    parser.add_argument("--show", type=Path, help="print the table of such a file, and do no more")
    return parser.parse_args()


def compare(table: Table, pipe: Any, prompts: Any, label: str, nfe: int, options: Any) -> None:
    """One search with a budget of so many NFE a prompt, all prompts side by side."""
    name, fields = SEARCHES[label]
    scaled = genscale.scale(
        pipe, name, "shapes_clip", held_out="shapes", budget=genscale.Budget(nfe=nfe),
        batch_size=options.batch_size, **fields,
    )  # fmt: skip
    seeds = [torch.Generator().manual_seed(options.seed + i) for i in range(len(prompts))]
    began = time.perf_counter()
    result = scaled(
        [p.text for p in prompts], generator=seeds, num_inference_steps=options.steps,
        guidance_scale=options.guidance,
    ).search  # fmt: skip
    seconds = (time.perf_counter() - began) / len(prompts)
    points = [result.curve(i)[-1] | {"spent": s.spent} for i, s in enumerate(result.searches)]
    table.add(label, nfe, points, seconds)
    table.rows[-1] |= noises(result)
    print(table, flush=True)
    table.save(options, prompts)


def noises(result: Any) -> dict[str, Any]:
    """Of the winners that were climbed to: their share, and medians of what was measured of their noises."""
    winners = [s.best().candidate for s in result.searches]
    found = [c.measured for c in winners if c.measured]
    names = ("moved", "length", "plausibility")
    medians = {n: statistics.median(m[n] for m in found) for n in names} if found else {}
    return {"climbed": len(found) / len(winners), **medians}


if __name__ == "__main__":
    main()
