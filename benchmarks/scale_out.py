"""Two worker processes against one process, one thread each: seconds of paired runs on a bundled model.

    python -m benchmarks.scale_out [--workers 2] [--runs 5] [--json benchmarks/results/scale-out.json]

Each run does both, one after the other, in turn which is first. The workers are started before.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import genscale
from benchmarks.common import parser_for, quiet_pipeline, spread_prompts

SAMPLERS: dict[str, dict[str, Any]] = {
    "best_of_n": {"candidates": 8},
    "smc": {"particles": 8},
    "dts_star": {"budget": "8images"},
}
ONE_PROMPT = 64  # candidates


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pipe = quiet_pipeline(given.model, threads=1)
    rows = []
    executor = genscale.Processes(given.workers, threads=1)
    for prompts in (16, 1):
        for name, options in SAMPLERS.items():
            some = options if prompts > 1 else {k: _many(v) for k, v in options.items()}
            rows.append(_compare(pipe, name, some, prompts, executor, given))
            print(_line(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"workers": given.workers, "rows": rows}, indent=1) + "\n")


def _many(value: Any) -> Any:
    return f"{ONE_PROMPT}images" if isinstance(value, str) else ONE_PROMPT


def _compare(
    pipe: Any, name: str, options: dict[str, Any], prompts: int, executor: Any, given: Any
) -> dict[str, Any]:
    texts = [prompt.text for prompt in spread_prompts(max(prompts, 2))[:prompts]]

    def seconds(workers: Any) -> float:
        scaled = genscale.scale(
            pipe, name, "shapes_clip", executor=workers, batch_size=given.batch_size, **options
        )
        begun = time.perf_counter()
        scaled.search(
            texts,
            num_inference_steps=given.steps,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(0),
        )
        return time.perf_counter() - begun

    for workers in (None, executor):  # starts the workers, and loads the verifier
        seconds(workers)
    pairs = []
    for run in range(given.runs):
        order = (None, executor) if run % 2 == 0 else (executor, None)
        took = {workers is None: seconds(workers) for workers in order}
        pairs.append((took[True], took[False]))
    gains = sorted(one / spread for one, spread in pairs)
    return {
        "sampler": name,
        "prompts": prompts,
        "one": statistics.median(one for one, _ in pairs),
        "workers": statistics.median(spread for _, spread in pairs),
        "gain": statistics.median(gains),
        "least": gains[0],
        "most": gains[-1],
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"| {row['sampler']} | {row['prompts']} | {row['one']:.2f} | {row['workers']:.2f} | "
        f"{row['gain']:.2f} ({row['least']:.2f} to {row['most']:.2f}) |"
    )


if __name__ == "__main__":
    main()
