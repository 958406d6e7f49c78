"""Verifier gradients against best_of_n at equal NFE, ways back counted: the searched score and a held-out judge.

Searched with the bundled CLIP; the exact judge is held out. Every prompt has its own seed, the same for all searches;
intervals are 95 %, normal, over prompts, and gains are paired with best_of_n of the same budget. Beside NFE stand the
verifier calls and the seconds, of which gradients through the decoder take more than NFE say.

    python benchmarks/guidance_gradients.py --nfe 160 --json benchmarks/results/guidance_gradients.json
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import interval, parser_for, quiet_pipeline, spread_prompts

import genscale

PUBLISHED = {"gradient": "model", "window": (0.0, 1.0), "rest": "ddim(1)", "reach": float("inf")}
"""Of DAS and TDS: gradients through the denoiser, at every step, ancestral steps all along."""

SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "best_of_n": ("best_of_n", {}),
    "gradient_guidance": ("gradient_guidance", {}),
    "das": ("das", {}),
    "tds": ("tds", {}),
    "das (as published)": ("das", {**PUBLISHED, "particles": 4, "strength": 1.0}),
    "tds (as published)": ("tds", {**PUBLISHED, "strength": 1.0}),
    "das without gradient": ("das", {"gradient": "none"}),
    "gradient_guidance through the model": ("gradient_guidance", {"through": "model"}),
}


def run(pipe: Any, label: str, nfe: int, texts: list[str], options: Any) -> dict[str, Any]:
    name, fields = SEARCHES[label]
    scaled = genscale.scale(
        pipe, name, "shapes_clip", held_out="shapes", budget=genscale.Budget(nfe=nfe), batch_size=64, **fields
    )
    row: dict[str, Any] = {"search": label, "nfe": nfe, "score": [], "judge": [], "calls": [], "spent": []}
    start = time.perf_counter()
    for i in range(0, len(texts), options.together):
        group = texts[i : i + options.together]
        output = scaled(
            group, generator=[torch.Generator().manual_seed(options.seed + i + j) for j in range(len(group))],
            num_inference_steps=options.steps, guidance_scale=options.guidance,
        )  # fmt: skip
        for j, search in enumerate(output.search.searches):
            best = output.search.curve(j)[-1]
            row["score"].append(best["total"])
            row["judge"].append(best["held_out"]["shapes"])
            row["calls"].append(search.calls)
            row["spent"].append(search.spent)
    row["seconds"] = (time.perf_counter() - start) / len(texts)
    return row


def signed(values: list[float]) -> str:
    return "{:+.4f} ± {:.4f}".format(*interval(values))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| search | NFE | calls | s | score | gain over best_of_n | judge (held out) | gain over best_of_n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rival = next(r for r in rows if r["search"] == "best_of_n" and r["nfe"] == row["nfe"])
        gains = ["", ""]
        if rival is not row:
            gains = [
                signed([a - b for a, b in zip(row[k], rival[k], strict=True)]) for k in ("score", "judge")
            ]
        mean = {k: statistics.fmean(row[k]) for k in ("spent", "calls", "score", "judge")}
        lines.append(
            f"| {row['search']} | {mean['spent']:.0f} | {mean['calls']:.0f} | {row['seconds']:.2f} "
            f"| {mean['score']:.4f} | {gains[0]} | {mean['judge']:.3f} | {gains[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--prompts", type=int, default=50, help="so many, spread over the fixed list")
    parser.add_argument("--nfe", type=int, nargs="+", default=[160])
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--together", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="written after each search")
    options = parser.parse_args()
    pipe = quiet_pipeline(options.model, options.threads)
    texts = [prompt.text for prompt in spread_prompts(options.prompts)]
    rows: list[dict[str, Any]] = []
    for nfe in options.nfe:
        for label in options.searches:
            rows.append(run(pipe, label, nfe, texts, options))
            print(table(rows), flush=True)
            if options.json:
                settings = {k: str(v) for k, v in vars(options).items() if k != "json"}
                options.json.write_text(json.dumps({"options": settings, "prompts": texts, "rows": rows}))


if __name__ == "__main__":
    main()
