"""Overhead of the engine: best_of_n against the pipeline's own batched call, at equal NFE and batch size.

One run, alternating, medians of the ratios of neighbouring pairs, so that a slow spell of the machine
hits both alike. No verifier is used and the pipeline decodes all images on both sides, hence what is compared is the
loop: merging, gathering, stepping, accounting.

    python benchmarks/overhead.py --model shapes-flow --rows 16 --pairs 11
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from common import parser_for, quiet_pipeline

import genscale

PROMPT = "a red star left of a blue ring"


def seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--rows", type=int, default=16, help="candidates, and rows in a batch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    pipe = quiet_pipeline(options.model, device=options.device)
    scaled = genscale.scale(
        pipe,
        candidates=options.rows,
        wave=options.rows,
        verifier=constant,
        batch_size=options.rows,
        keep=options.rows,
    )
    call = {
        "prompt": PROMPT,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
        "output_type": "pt",
    }

    def plain() -> object:
        return pipe(**call, num_images_per_prompt=options.rows, generator=torch.Generator().manual_seed(0))

    def searched() -> object:
        return scaled(**call, generator=torch.Generator().manual_seed(0))

    plain(), searched()  # warm up
    ratios, times = [], []
    for pair in range(options.pairs):
        order = (plain, searched) if pair % 2 == 0 else (searched, plain)
        taken = {work.__name__: seconds(work) for work in order}
        times.append(taken)
        ratios.append(taken["searched"] / taken["plain"])
    print(
        json.dumps(
            {
                "model": options.model,
                "device": options.device,
                "rows": options.rows,
                "steps": options.steps,
                "nfe": 2 * options.rows * options.steps,
                "pairs": options.pairs,
                "plain_seconds": round(statistics.median(t["plain"] for t in times), 4),
                "searched_seconds": round(statistics.median(t["searched"] for t in times), 4),
                "ratio_median": round(statistics.median(ratios), 4),
                "ratio_min": round(min(ratios), 4),
                "ratio_max": round(max(ratios), 4),
            }
        )
    )


def constant(media: object, prompts: list[str]) -> list[float]:
    return [0.0] * len(prompts)


if __name__ == "__main__":
    main()
