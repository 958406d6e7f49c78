"""Do samplers draw from the law that they promise? Distance to the true tilted law against NFE.

The law is p(x) exp(R(x)) / Z: strength 1, scores in nats. Two beds on the plane know it in closed form; on the third,
a diffusion model of scikit-learn's digits with a classifier's log p(class | x) as reward, it is what real digits of
the class follow. Every sampler has the same chain and the same budgets; runs are independent; intervals are 95 %, by
resampling runs.

    python -m benchmarks.posterior mixture --json benchmarks/results/posterior-mixture.json
    python -m benchmarks.posterior digits --json benchmarks/results/posterior-digits.json
    python -m benchmarks.posterior plot --picture docs/posterior.png
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genscale
from benchmarks.bed import DRAWS, Bed, runs
from benchmarks.distances import interval
from benchmarks.gaussians import grid, ring
from benchmarks.posterior_plot import plot
from benchmarks.posterior_tasks import RESAMPLES, Task, plane, real_digits
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.dts import Dts
from genscale.samplers.fk_steering import FkSteering
from genscale.samplers.importance import Importance
from genscale.samplers.smc import Smc

RIVAL = "importance"  # the simplest sampler of the same law; gains are over it

# Each as it comes, but for the law (strength 1, scores as they are), the chain, and the number of particles, which is
# what the budget pays for.
SEARCHES: dict[str, Any] = {
    RIVAL: Importance(),
    "best_of_n": BestOfN(),
    "fk_steering": FkSteering(particles=None),
    "smc": Smc(),
    "dts (1, 0.5)": Dts(),
    "dts (2, 0.8)": Dts(widen=(2.0, 0.8)),
}
FOLDER = Path("benchmarks/results")


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    if options.what == "plot":
        stored = (FOLDER / f"posterior-{what}.json" for what in ("mixture", "digits"))
        plot([json.loads(path.read_text()) for path in stored], options.picture)
        return
    report: dict[str, Any] = {
        "options": {k: str(v) for k, v in vars(options).items() if k not in ("json", "picture", "cache")},
        "draws": DRAWS, "resamples": RESAMPLES,
        "versions": {"genscale": genscale.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "tasks": [],
    }  # fmt: skip
    for task in tasks(options):
        table = Table(task)
        report["tasks"].append(table.record)
        for nfe in [n * task.bed.steps for n in options.plain_runs]:
            for label in options.searches:
                table.add(label, nfe, options.seed)
                if options.json:
                    options.json.parent.mkdir(parents=True, exist_ok=True)
                    options.json.write_text(json.dumps(report, indent=1) + "\n")
        print(table, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("mixture", "digits", "plot"))
    parser.add_argument(
        "--plain-runs", type=int, nargs="+", default=[4, 16, 64, 256], help="budgets, in plain runs of the model"
    )  # fmt: skip
    parser.add_argument("--runs", type=int, help="of every search at every budget (mixture 100, digits 200)")
    parser.add_argument("--steps", type=int, help="model calls of a plain run (mixture 10, digits 20)")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cache", type=Path, default=Path("out/posterior"), help="where trained models are kept"
    )
    parser.add_argument("--json", type=Path, help="written after each search")
    parser.add_argument("--picture", type=Path, default=Path("docs/posterior.png"))
    return parser.parse_args()


def tasks(options: argparse.Namespace) -> Sequence[Task]:
    if options.what == "digits":
        return [real_digits(options.runs or 200, options.steps or 20, options.seed, options.cache)]
    size = (options.runs or 100, options.steps or 10, options.seed)
    return [plane("ring", ring(), *size), plane("grid", grid(), *size)]


def on(bed: Bed, sampler: Any) -> Any:
    """The sampler for p(x) exp(R(x)), on the bed's chain."""
    if isinstance(sampler, BestOfN):
        return sampler
    kernel = {} if isinstance(sampler, Importance) else {"kernel": bed.kernel}
    return replace(sampler, strength=1.0, scale=1.0, rest="own", **kernel)


class Table:
    """All rows of a task: first what needs no search."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.record: dict[str, Any] = {
            "name": task.name, "runs": len(task.prompts), "steps": task.bed.steps, "width": task.width,
            "facts": task.facts, "rows": [],
        }  # fmt: skip
        self._rival: dict[str, Tensor] = {}
        for label, draws in task.plain.items():
            self._row(label, None, 0.0, 0.0, task.of_draws(draws), {})

    def add(self, label: str, nfe: int, seed: int) -> None:
        task, start = self.task, time.perf_counter()
        found = list(runs(task.bed, on(task.bed, SEARCHES[label]), task.prompts, nfe, seed=seed))
        seconds = time.perf_counter() - start
        measures = task.of_runs(found)
        if label == RIVAL:
            self._rival = measures
        spent = sum(f.spent for f in found) / len(found)
        self._row(label, nfe, spent, seconds, measures, {} if label == RIVAL else self._rival)

    def _row(
        self, label: str, nfe: int | None, spent: float, seconds: float, measures: dict[str, Tensor],
        rival: dict[str, Tensor],
    ) -> None:  # fmt: skip
        row = {"search": label, "nfe": nfe, "spent": spent, "seconds": round(seconds, 1)}
        row["measures"] = {k: interval(v) for k, v in measures.items()}
        row["gains"] = {k: interval(measures[k] - v) for k, v in rival.items()}
        self.record["rows"].append(row)
        print(self.task.name, _line(row, list(self.columns)), flush=True)

    @property
    def columns(self) -> dict[str, str]:
        return columns(self.record)

    def __str__(self) -> str:
        return as_table(self.record)


COLUMNS = {
    "law": "MMD² of a draw, 1e-3",
    "one": "MMD² of a run, 1e-3",
    "frechet": "Fréchet",
    "reward": "log reward",
    "judge": "judge's log p",
    "right": "judge agrees",
    "variety": "variety",
    "spread": "spread of a run",
}


def columns(record: dict[str, Any]) -> dict[str, str]:
    return {k: v for k, v in COLUMNS.items() if any(k in row["measures"] for row in record["rows"])}


def as_table(record: dict[str, Any]) -> str:
    shown = columns(record)
    head = ["search", "NFE", *shown.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [_line(row, list(shown)) for row in record["rows"]]
    return "\n".join(lines)


def _line(row: dict[str, Any], shown: list[str]) -> str:
    cells = [row["search"], "" if row["nfe"] is None else f"{row['spent']:.0f}"]
    for name in shown:
        if name not in row["measures"]:
            cells.append("")
            continue
        value, half = row["measures"][name]
        unit = 1000 if name in ("law", "one") else 1
        cell = f"{value * unit:.{_places(name)}f} ± {half * unit:.{_places(name)}f}"
        gain = row["gains"].get(name)
        beyond = gain is not None and abs(gain[0]) > gain[1]
        cells.append(f"**{cell}**" if beyond else cell)
    return "| " + " | ".join(cells) + " |"


def _places(name: str) -> int:
    return {"law": 1, "one": 1}.get(name, 2)


if __name__ == "__main__":
    main()
