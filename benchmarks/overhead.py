"""Overhead of a search: best_of_n against the pipeline's own batched call, at equal NFE and batch size.

One run, in turn; each ratio is a median over rounds of one call each, so that a slow spell of the machine hits all
alike. CPU time of one thread on the CPU, else wall time. The verifier costs nothing, and both sides decode all
candidates at once, hence what is compared is the search itself:

- first: a scaled pipeline that was not called before, whose probe walks through the loop
- again: a further call of one scaled pipeline
- without the winner: the same by `search`, which does not decode the winner once more, alone, as the pipeline does

    python -m benchmarks.overhead > benchmarks/results/overhead.jsonl
"""

from __future__ import annotations

import inspect
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

import genscale
from benchmarks.common import parser_for
from benchmarks.tiny_pipelines import pipeline
from genscale.pipelines.call_signature import COUNTS


def seconds(work: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def works(pipe: Any, call: dict[str, Any], rows: int) -> dict[str, Callable[[], object]]:
    """What is compared, by name."""
    count = next(name for name in COUNTS if name in inspect.signature(type(pipe).__call__).parameters)

    def scaled() -> Any:
        return genscale.scale(
            pipe, "best_of_n", constant, candidates=rows, wave=rows, batch_size=rows, decode_batch=rows
        )

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    kept = scaled()
    return {
        "plain": lambda: pipe(**call | {count: rows}, generator=seeded()),
        "first": lambda: scaled()(**call, generator=seeded()),
        "again": lambda: kept(**call, generator=seeded()),
        "without the winner": lambda: kept.search(**call, generator=seeded()),
    }


def compared(works: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, Any]:
    """Median seconds of each, and median, least and largest ratio to the plain call."""
    for work in works.values():  # warm up
        work()
    names, taken = list(works), list[dict[str, float]]()
    for i in range(rounds):
        order = names[i % len(names) :] + names[: i % len(names)]
        taken.append({name: seconds(works[name], device) for name in order})
    found: dict[str, Any] = {}
    for name in names:
        ratios = [t[name] / t["plain"] for t in taken]
        found[name] = {
            "seconds": round(statistics.median(t[name] for t in taken), 4),
            "ratio": [round(f(ratios), 3) for f in (statistics.median, min, max)],
        }
    return found


def constant(media: object, prompts: list[str]) -> list[float]:
    return [0.0] * len(prompts)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--models", nargs="+", default=["flux", "wan", "sdxl", "shapes-flow"])
    parser.add_argument("--rows", type=int, default=16, help="candidates, and rows in a batch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0, help="of bundled models")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    about = {"device": options.device, "rows": options.rows, "steps": options.steps, "rounds": options.rounds}
    for model in options.models:
        pipe, call = pipeline(model, options.steps, options.guidance, options.device)
        found = compared(works(pipe, call, options.rows), options.rounds, options.device)
        print(json.dumps({"model": model, **about, **found}), flush=True)


if __name__ == "__main__":
    main()
