"""What a rollout of a tree search costs while the tree grows: host time, on a model that costs next to nothing.

CPU time of one thread between two scorings, over windows of rollouts; flat where no step of a rollout goes through the
whole tree.

    python -m benchmarks.trees > benchmarks/results/trees.jsonl
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from benchmarks.common import parser_for
from genscale.plugins import registry
from genscale.toy import analytic

SAMPLERS = ("dts_star", "ab_mcts")
WINDOW = 500


def spent(name: str, rollouts: int, steps: int, dim: int) -> list[tuple[int, float]]:
    """(rollouts done, CPU seconds since the start) at every scoring."""
    seen: list[tuple[int, float]] = []
    score, start, done = analytic.coordinate(0), time.process_time(), 0

    def noted(media: Any, prompts: Any) -> Any:
        nonlocal done
        done += len(prompts)
        seen.append((done, time.process_time() - start))
        return score(media, prompts)

    sampler = registry.make("sampler", name, {"rollouts": rollouts})
    analytic.search(sampler, analytic.gaussian(dim), noted, steps=steps, batch_size=64)
    return seen


def each(seen: list[tuple[int, float]], until: int) -> float:
    """Milliseconds a rollout over the last WINDOW rollouts before `until`."""
    inside = [point for point in seen if until - WINDOW <= point[0] <= until]
    (first, began), (last, ended) = inside[0], inside[-1]
    return 1e3 * (ended - began) / (last - first)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--dim", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    marks = [n for n in (1000, 2000, 5000, 10_000, 20_000) if n <= options.rollouts]
    for name in options.samplers:
        seen = spent(name, options.rollouts, options.steps, options.dim)
        row = {"sampler": name, "window": WINDOW, "milliseconds": {n: round(each(seen, n), 2) for n in marks}}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
