"""The spread of scores of previews after every step of a run, and of the final images.

It is the unit of a strength where particle methods divide scores by those of their first previews (scale=previews).
Means over prompts of the standard deviation within each prompt, searched with the bundled CLIP.

    python benchmarks/preview_spread.py --json benchmarks/results/preview_spread.json
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import torch
from common import parser_for, quiet_pipeline, spread_prompts

import genscale
from genscale.results.calibration import Previews


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--prompts", type=int, default=30, help="so many, spread over the fixed list")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pipe = quiet_pipeline(options.model, options.threads)
    texts = [prompt.text for prompt in spread_prompts(options.prompts)]
    scaled = genscale.scale(pipe, Previews(options.candidates), "shapes_clip", batch_size=64)
    result = scaled(
        texts, generator=[torch.Generator().manual_seed(options.seed + i) for i in range(len(texts))],
        num_inference_steps=options.steps, guidance_scale=options.guidance,
    ).search  # fmt: skip
    scores: dict[int, dict[int, list[float]]] = {}
    for entry in result.entries:
        scores.setdefault(entry.step, {}).setdefault(entry.prompt, []).append(entry.total)
    spreads = {
        step: statistics.fmean(statistics.pstdev(totals) for totals in scores[step].values())
        for step in sorted(scores)
    }
    print(
        "| after call | spread of previews | a strength of 10 in spreads of the final scores |\n|---|---|---|"
    )
    for step, spread in spreads.items():
        print(f"| {step} | {spread:.3f} | {10 * spreads[options.steps] / spread:.1f} |")
    if options.json:
        settings = {k: str(v) for k, v in vars(options).items() if k != "json"}
        options.json.write_text(json.dumps({"options": settings, "spreads": spreads}, indent=1) + "\n")


if __name__ == "__main__":
    main()
