"""Does search work? Accuracy of the exact judge for base and searched pictures, at equal NFE.

Searched with the embedded CLIP, an imperfect verifier; the exact judge is held out and only reports. Candidates
of best_of_n are nested (the first 4 of 64 are the candidates of N = 4), so one run gives all N. Every
prompt has its own seed; intervals are 95 %, normal, over prompts; gains are paired with the same prompts' base.

    python benchmarks/shapes.py --model shapes-flow --json benchmarks/results/shapes-flow.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import genscale
from genscale.shapes import PROMPTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument(
        "--prompts", type=int, default=len(PROMPTS), help="the first so many of the fixed list"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--largest", type=int, default=64, help="N of the largest best_of_n")
    parser.add_argument("--equal", type=int, default=16, help="N whose NFE the other samplers are given")
    parser.add_argument("--together", type=int, default=8, help="prompts in one call")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--searches", nargs="+", default=["best_of_n", "zero_order", "search_over_paths"])
    parser.add_argument(
        "--json", type=Path, help="written after each search; what it holds of others is kept"
    )
    options = parser.parse_args()

    pipe = genscale.load_pipeline(options.model, device=options.device)
    prompts = [PROMPTS[i * len(PROMPTS) // options.prompts] for i in range(options.prompts)]
    call = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    each = genscale.scale(pipe, candidates=1).plan(prompts[0].text, **call).nfe_per_candidate
    earlier = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    outcomes: dict[str, list[float]] = earlier.get("correct", {})
    clip: dict[str, list[float]] = earlier.get("clip", {})
    spent: dict[str, float] = earlier.get("nfe", {})
    seconds: dict[str, float] = earlier.get("seconds", {})

    sizes = [n for n in (4, 16, 64, 256) if n <= options.largest]
    searches = [
        ("best_of_n", {"candidates": options.largest, "wave": options.batch_size}, None),
        ("zero_order", {}, each * options.equal),
        ("search_over_paths", {}, each * options.equal),
    ]
    for name, fields, nfe in searches:
        if name not in options.searches:
            continue
        scaled = genscale.scale(
            pipe,
            name,
            "shapes_clip",
            report="shapes",
            budget=None if nfe is None else genscale.Budget(nfe=nfe),
            batch_size=options.batch_size,
            **fields,
        )
        start = time.perf_counter()
        results = run(scaled, prompts, call, options)
        taken = (time.perf_counter() - start) / len(prompts)
        if name == "best_of_n":
            record(outcomes, clip, "base", [first(r, 1) for r in results])
            spent["base"], seconds["base"] = each, taken / options.largest
            for n in sizes:
                record(outcomes, clip, f"best_of_{n}", [first(r, n) for r in results])
                spent[f"best_of_{n}"], seconds[f"best_of_{n}"] = each * n, taken * n / options.largest
        else:
            record(outcomes, clip, name, [r[-1] for r in results])
            spent[name], seconds[name] = statistics.fmean(r[-1]["spent"] for r in results), taken
        print(table(prompts, outcomes, clip, spent, seconds), flush=True)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            report = {
                "options": {k: str(v) for k, v in vars(options).items() if k not in ("json", "searches")},
                "prompts": [p.text for p in prompts],
                "categories": [p.category for p in prompts],
                "correct": outcomes,
                "clip": clip,
                "nfe": spent,
                "seconds": seconds,
                "versions": {"genscale": genscale.__version__, "torch": torch.__version__},
            }
            options.json.write_text(json.dumps(report, indent=1))


def run(scaled: Any, prompts: Any, call: dict[str, Any], options: Any) -> list[list[dict[str, Any]]]:
    """The curve of every prompt: each new best with its total and the judge's verdict."""
    curves = []
    for i in range(0, len(prompts), options.together):
        group = prompts[i : i + options.together]
        seeds = [options.seed + i + j for j in range(len(group))]
        output = scaled(
            [p.text for p in group],
            generator=[torch.Generator().manual_seed(s) for s in seeds],
            **call,
        )
        for j, search in enumerate(output.search.searches):
            curve = output.search.curve(j)
            curve[-1]["spent"] = search.spent
            curves.append(curve)
    return curves


def first(curve: list[dict[str, Any]], n: int) -> dict[str, Any]:
    """The best of the first n candidates."""
    return [point for point in curve if point["candidate"] < n][-1]


def record(outcomes: Any, clip: Any, name: str, points: list[dict[str, Any]]) -> None:
    outcomes[name] = [p["report"]["shapes"] for p in points]
    clip[name] = [p["total"] for p in points]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    return statistics.fmean(values), half


def table(prompts: Any, outcomes: Any, clip: Any, spent: Any, seconds: Any) -> str:
    categories = sorted({p.category for p in prompts})
    head = ["search", "NFE", "s", "CLIP (searched)", "judge (held out)", "gain over base", *categories]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, values in outcomes.items():
        by_category = defaultdict(list)
        for prompt, value in zip(prompts, values, strict=True):
            by_category[prompt.category].append(value)
        gain = [a - b for a, b in zip(values, outcomes.get("base", values), strict=True)]
        cells = [
            name,
            f"{spent[name]:.0f}",
            f"{seconds[name]:.1f}",
            "{:.3f} ± {:.3f}".format(*interval(clip[name])),
            "{:.3f} ± {:.3f}".format(*interval(values)),
            "" if name == "base" else "{:+.3f} ± {:.3f}".format(*interval(gain)),
            *(f"{statistics.fmean(by_category[c]):.2f}" for c in categories),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [*lines, f"n = {len(prompts)} prompts, one seed each; ± is a 95 % interval over prompts."]
    )


if __name__ == "__main__":
    main()
