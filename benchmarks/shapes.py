"""Does search work? Accuracy of the exact judge for base and searched images, at equal NFE.

Searched with the bundled CLIP, an imperfect verifier; the exact judge is held out and only reports. Every prompt has
its own seed; intervals are 95 %, normal, over prompts; gains are paired with the same prompts.

    python benchmarks/shapes.py --steps 8 --json benchmarks/results/shapes-flow.json

Candidates of best_of_n are nested (the first 4 of 64 are the candidates of N = 4), so one run gives all N. With --nfe
every search gets the same budgets, and gains are over best_of_n:

    python benchmarks/shapes.py --steps 8 --nfe 100 300 1000 --dtype bfloat16 --batch-size 256 \\
        --json benchmarks/results/particles-flow.json

Trees and populations (docs/trees.md; `--searches best_of_n beam "rollover (linear SDE)" zero_order evolution dts_star
ab_mcts`) are in benchmarks/results/trees-*.json; benchmarks/curves.py draws them.
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
from genscale.toy.shapes import PROMPTS

# What is compared at equal NFE: each as it comes, but for the number of particles, which is what the budget pays for.
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "best_of_n": ("best_of_n", {}),
    "successive_halving": ("successive_halving", {}),
    "fk_steering": ("fk_steering", {"particles": None}),
    "smc": ("smc", {}),
    "bfs": ("bfs", {"particles": None}),
    "svdd": ("svdd", {}),
    "code": ("code", {}),
    "beam": ("beam", {}),
    "treeg": ("treeg", {}),
    "dlbs": ("dlbs", {}),
    "rollover (linear SDE)": ("rollover", {}),
    "rollover (VP SDE)": ("rollover", {"kernel": "sde(rbf, vp)"}),
    "rollover (as published)": (
        "rollover",
        {"chains": 2, "init": 0.1, "window": (0.0, 1.0), "most": math.inf},
    ),
    "dts_star": ("dts_star", {}),
    "dts_star (as published)": (
        "dts_star",
        {"levels": (0.2, 0.4, 0.6, 0.8), "widen": "paper", "root": None, "strength": 1.0},
    ),
    "ab_mcts": ("ab_mcts", {}),
    "dfs": ("dfs", {}),
    "evolution": ("evolution", {}),
    "zero_order": ("zero_order", {}),
    "search_over_paths": ("search_over_paths", {}),
}
ON_DEMAND = (  # with --nfe only if asked for
    "treeg",
    "dlbs",
    "dts_star",
    "dts_star (as published)",
    "ab_mcts",
    "dfs",
    "evolution",
    "rollover (as published)",
    "zero_order",
    "search_over_paths",
)
NESTED = (4, 16, 64, 256)  # N of best_of_n that are read off one run


def main() -> None:
    options = parsed()
    if options.threads:
        torch.set_num_threads(options.threads)
    pipe = genscale.load_pipeline(options.model, device=options.device, dtype=options.dtype)
    pipe.set_progress_bar_config(disable=True)
    prompts = [PROMPTS[i * len(PROMPTS) // options.prompts] for i in range(options.prompts)]
    call = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    each = genscale.scale(pipe, candidates=1).plan(prompts[0].text, **call).nfe_per_candidate
    table = Table([p.category for p in prompts], options.json)
    if options.nfe:
        for nfe in options.nfe:
            for label in options.searches or [n for n in SEARCHES if n not in ON_DEMAND]:
                if (label, nfe) not in table.done or options.again:
                    equal(table, pipe, prompts, call, label, nfe, options)
    else:
        nested(table, pipe, prompts, call, each, options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument(
        "--prompts", type=int, default=len(PROMPTS), help="so many, spread over the fixed list"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument(
        "--nfe", type=int, nargs="*", help="budgets a prompt at which all searches are compared"
    )
    parser.add_argument("--largest", type=int, default=64, help="N of the largest best_of_n, without --nfe")
    parser.add_argument(
        "--equal", type=int, default=16, help="N whose NFE the others are given, without --nfe"
    )
    parser.add_argument("--together", type=int, default=8, help="prompts in one call")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES))
    parser.add_argument("--again", action="store_true", help="repeat what the JSON file holds already")
    parser.add_argument(
        "--json", type=Path, help="written after each search; what it holds of others is kept"
    )
    return parser.parse_args()


def nested(table: Table, pipe: Any, prompts: Any, call: Any, each: int, options: Any) -> None:
    """The base and best_of_n at every N from one run; zero_order and search_over_paths at the NFE of one N."""
    scaled = search(
        pipe, ("best_of_n", {"candidates": options.largest, "wave": options.batch_size}), None, options
    )
    curves, seconds = run(scaled, prompts, call, options)
    for n in (1, *(n for n in NESTED if n <= options.largest)):
        points = [{**[p for p in curve if p["candidate"] < n][-1], "spent": each * n} for curve in curves]
        table.add("base" if n == 1 else f"best_of_{n}", each * n, points, seconds * n / options.largest)
    for label in ("zero_order", "search_over_paths"):
        equal(table, pipe, prompts, call, label, each * options.equal, options)
    print(table, flush=True)
    table.save(options, prompts)


def equal(table: Table, pipe: Any, prompts: Any, call: Any, label: str, nfe: int, options: Any) -> None:
    """One search with a budget of so many NFE a prompt."""
    curves, seconds = run(search(pipe, SEARCHES[label], nfe, options), prompts, call, options)
    table.add(label, nfe, [curve[-1] for curve in curves], seconds)
    print(table, flush=True)
    table.save(options, prompts)


def search(pipe: Any, what: tuple[str, dict[str, Any]], nfe: int | None, options: Any) -> Any:
    budget = None if nfe is None else genscale.Budget(nfe=nfe)
    return genscale.scale(
        pipe,
        what[0],
        "shapes_clip",
        held_out="shapes",
        budget=budget,
        batch_size=options.batch_size,
        **what[1],
    )


def run(scaled: Any, prompts: Any, call: dict[str, Any], options: Any) -> tuple[list[Any], float]:
    """(the curve of every prompt: each new best with its total and the judge's verdict; seconds a prompt)."""
    curves, start = [], time.perf_counter()
    for i in range(0, len(prompts), options.together):
        group = prompts[i : i + options.together]
        seeds = [options.seed + i + j for j in range(len(group))]
        output = scaled(
            [p.text for p in group], generator=[torch.Generator().manual_seed(s) for s in seeds], **call
        )
        for j, search in enumerate(output.search.searches):
            curves.append(output.search.curve(j))
            curves[-1][-1]["spent"] = search.spent
    return curves, (time.perf_counter() - start) / len(prompts)


class Table:
    """What every search found, by (label, budget), with the gains over the first of its budget."""

    def __init__(self, categories: list[str], path: Path | None) -> None:
        self.categories, self.path = categories, path
        earlier = json.loads(path.read_text()) if path and path.exists() else {}
        self.rows: list[dict[str, Any]] = earlier.get("rows", [])

    @property
    def done(self) -> set[tuple[str, int]]:
        return {(row["search"], row["nfe"]) for row in self.rows}

    def add(self, label: str, nfe: int, points: list[dict[str, Any]], seconds: float) -> None:
        self.rows = [r for r in self.rows if (r["search"], r["nfe"]) != (label, nfe)]
        self.rows.append(
            {
                "search": label,
                "nfe": nfe,
                "spent": statistics.fmean(p["spent"] for p in points),
                "seconds": seconds,
                "clip": [p["total"] for p in points],
                "correct": [p["held_out"]["shapes"] for p in points],
            }
        )

    def save(self, options: Any, prompts: Any) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        held_out = {
            "options": {
                k: str(v) for k, v in vars(options).items() if k not in ("json", "searches", "again")
            },
            "prompts": [p.text for p in prompts],
            "categories": self.categories,
            "rows": self.rows,
            "versions": {"genscale": genscale.__version__, "torch": torch.__version__},
        }
        self.path.write_text(json.dumps(held_out, indent=1))

    def _rival(self, row: dict[str, Any]) -> dict[str, Any]:
        """best_of_n of the same budget where there is one, else the base."""
        same = [r for r in self.rows if r["nfe"] == row["nfe"] and r["search"] == "best_of_n"]
        return next(iter([*same, *(r for r in self.rows if r["search"] == "base")]), row)

    def __str__(self) -> str:
        categories = sorted(set(self.categories))
        against = "best_of_n" if any(r["search"] == "best_of_n" for r in self.rows) else "base"
        head = ["search", "NFE", "s", "CLIP (searched)", f"gain over {against}", "judge (held out)",
                f"gain over {against}", *categories]  # fmt: skip
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for row in self.rows:
            by_category = defaultdict(list)
            for category, value in zip(self.categories, row["correct"], strict=True):
                by_category[category].append(value)
            rival, gains = self._rival(row), []
            for what in ("clip", "correct"):
                gain = [a - b for a, b in zip(row[what], rival[what], strict=True)]
                gains.append("" if rival is row else "{:+.4f} ± {:.4f}".format(*interval(gain)))
            cells = [
                row["search"],
                f"{row['spent']:.0f}",
                f"{row['seconds']:.2f}",
                "{:.4f} ± {:.4f}".format(*interval(row["clip"])),
                gains[0],
                "{:.3f} ± {:.3f}".format(*interval(row["correct"])),
                gains[1],
                *(f"{statistics.fmean(by_category[c]):.2f}" for c in categories),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(
            [*lines, f"n = {len(self.categories)} prompts, one seed each; ± is a 95 % interval over prompts."]
        )


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    return statistics.fmean(values), half


if __name__ == "__main__":
    main()
