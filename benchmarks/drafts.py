"""What a draft keeps of best-of-N's gain, and what it costs, beside cheaper searches without drafts.

Every method searches the same prompts with the same seeds, a group of prompts at a time, one method after the other in
an order that alternates; the CPU seconds of a group are compared with those of best_of_n on the same group. The gain is
that of the search score over the mean of the N images of best_of_n. Its share is a ratio of means over the prompts,
with a 95 % interval by jackknife. A group is written as soon as it is done, and a run that is called again goes on.

    python -m benchmarks.drafts --model shapes-flow --prompts 120 --out benchmarks/results/drafts-flow.jsonl
    python -m benchmarks.drafts --table benchmarks/results/drafts-flow.jsonl
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import genscale
from benchmarks.common import parser_for, quiet_pipeline, spread_prompts
from genscale.pipelines.loading import EMBEDDED

N = 16
BASE = "best of 16"
METHODS: dict[str, dict[str, Any]] = {
    BASE: {"candidates": N},
    "best of 8": {"candidates": N // 2},
    "draft steps=4,keep=2": {"candidates": N, "draft": "steps=4,keep=2"},
    "draft steps=6,keep=2": {"candidates": N, "draft": "steps=6,keep=2"},
    "draft guidance=1,steps=10,keep=3": {"candidates": N, "draft": "guidance=1,steps=10,keep=3"},
    "prune at 0.4, keep 2": {"candidates": N, "prune": (0.4,), "survivors": 2 / N},
    "prune at 0.5, keep 1": {"candidates": N, "prune": (0.5,), "survivors": 1 / N},
}
GROUP = 8  # prompts


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--methods", nargs="*", help="beside best of 16; all without it")
    parser.add_argument("--out", type=Path, default=Path("drafts.jsonl"))
    parser.add_argument("--table", type=Path, help="only print the table of a file")
    options = parser.parse_args()
    if options.table is None:
        measure(options.model, options.prompts, options.methods or list(METHODS)[1:], options.out)
    print(table(options.table or options.out))


def measure(model: str, count: int, methods: Sequence[str], out: Path) -> None:
    """Run every group that the file does not have yet, and write it there."""
    pipe, names = quiet_pipeline(model, threads=1), [BASE, *methods]
    texts = [prompt.text for prompt in spread_prompts(count)]
    done = {json.loads(line)["first"] for line in out.read_text().splitlines()} if out.exists() else set()
    for method in names:  # what is loaded and compiled at the first call
        run(pipe, model, method, texts[:1], 0)
    for first in range(0, count, GROUP):
        if first in done:
            continue
        some = texts[first : first + GROUP]
        order = names if (first // GROUP) % 2 == 0 else names[::-1]
        found = {method: run(pipe, model, method, some, first) for method in order}
        with out.open("a") as file:
            file.write(json.dumps({"model": model, "first": first, "prompts": some, "methods": found}) + "\n")


def run(pipe: Any, model: str, method: str, texts: list[str], seed: int) -> dict[str, Any]:
    """CPU seconds, and of each prompt the NFE, the best score, the scores by candidate, and those of its drafts."""
    world = EMBEDDED[model]
    scaled = genscale.scale(pipe, "best_of_n", world.verifier, batch_size=64, **METHODS[method])
    call = {
        "prompt": texts, "num_inference_steps": world.steps, "guidance_scale": world.guidance, "width": world.size,
        "height": world.size, "generator": torch.Generator().manual_seed(seed),
    }  # fmt: skip
    started = time.process_time()
    output = scaled(**call)
    seconds, result = time.process_time() - started, output.search

    def scores(searches: Any) -> list[dict[int, float]]:
        return [{e.candidate.id: e.total for e in s.finals} for s in searches]

    return {
        "seconds": seconds,
        "nfe": [s.spent for s in result.searches],
        "best": [result.ranking(i)[0].total for i in range(len(texts))],
        "scores": scores(result.searches),
        "drafts": None if result.drafts is None else scores(result.drafts.searches),
    }


def table(path: Path) -> str:
    """One line for each method."""
    groups = [json.loads(line) for line in path.read_text().splitlines()]
    base = [g["methods"][BASE] for g in groups]
    mean = np.array([statistics.fmean(s.values()) for g in base for s in g["scores"]])
    gain = np.array([b for g in base for b in g["best"]]) - mean
    lines = [
        f"{groups[0]['model']}: {len(gain)} prompts, gain of {BASE} {gain.mean():.4f}",
        "| method | NFE a prompt | CPU seconds, share of best of 16 | share of its gain | rank correlation |",
        "|---|---|---|---|---|",
    ]
    for method in groups[0]["methods"]:
        made = [g["methods"][method] for g in groups]
        kept = np.array([b for g in made for b in g["best"]]) - mean
        ratios = [ours["seconds"] / theirs["seconds"] for ours, theirs in zip(made, base, strict=True)]
        share, half = ratio_of_means(kept, gain)
        rho = agreement(made, base)
        nfe = nfe_of(made)
        told = "" if rho is None else f"{rho:.2f}"
        spread = "" if method == BASE else f" ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(
            f"| {method} | {nfe:.0f} | {statistics.median(ratios):.2f}{spread} | {share:.3f} ± {half:.3f} | {told} |"
        )
    half_of_them = np.array(
        [max(s[i] for i in range(N // 2)) for g in base for s in map(_by_number, g["scores"])]
    )
    share, half = ratio_of_means(half_of_them - mean, gain)
    lines.append(
        f"| the first {N // 2} of these | {nfe_of(base) // 2:.0f} |  | {share:.3f} ± {half:.3f} |  |"
    )
    return "\n".join(lines)


def nfe_of(made: list[dict[str, Any]]) -> float:
    return statistics.fmean(n for g in made for n in g["nfe"])


def _by_number(scores: dict[str, float]) -> dict[int, float]:
    """JSON has made texts of the ids."""
    return {int(i): score for i, score in scores.items()}


def ratio_of_means(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """mean(above) / mean(below) of paired values, and the half width of its 95 % interval (jackknife)."""
    n = len(above)
    each = (above.sum() - above) / (below.sum() - below)  # without one prompt
    error = math.sqrt((n - 1) / n * float(np.square(each - each.mean()).sum()))
    return float(above.sum() / below.sum()), 1.96 * error


def agreement(made: list[dict[str, Any]], base: list[dict[str, Any]]) -> float | None:
    """Mean rank correlation of drafts with the final scores of the same candidates; None without drafts."""
    found = []
    for ours, theirs in zip(made, base, strict=True):
        for drafts, finals in zip(ours["drafts"] or (), theirs["scores"], strict=ours["drafts"] is not None):
            ids = sorted(drafts)
            found.append(float(spearmanr([drafts[i] for i in ids], [finals[i] for i in ids])[0]))
    return statistics.fmean(found) if found else None


if __name__ == "__main__":
    main()
