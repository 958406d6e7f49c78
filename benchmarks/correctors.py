"""Do correctors give a mix the law that its weights name, and where do their weights collapse?

Law: mixtures on a line, whose products are known to any precision; Wasserstein-1 distance of the weighted particles,
with and without correction, for several churns. Collapse: the same guidance in d independent coordinates; effective
sample size of N particles that are never resampled. All numbers are means over seeds with their standard errors.

    python -m benchmarks.correctors --json benchmarks/results/correctors.json
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genscale
from benchmarks.lines import Line, Target
from genscale.diffusion.corrector import even_times, increment, subdued
from genscale.diffusion.kernels import Ddim
from genscale.diffusion.mixture_arithmetic import combined, rate
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.key import Key
from genscale.numerics.resampling import ess, log_mean_exp, normalised, resample

WIDE, NARROW = Line([-1.5, 1.5], [1.0, 1.2], [0.5, 0.5]), Line([-0.5, 2.0], [0.7, 0.6], [0.3, 0.7])
THIRD = Line([0.0, 2.5], [1.0, 0.8], [0.5, 0.5])
APART, ALIKE = Line([-2.5, 2.0], [0.5, 0.7], [0.4, 0.6]), Line([-2.5, 2.0], [0.4, 0.8], [0.4, 0.6])
LAWS: dict[str, tuple[tuple[Line, ...], tuple[float, ...]]] = {
    "guidance, scale 2.5": ((WIDE, NARROW), (-1.5, 2.5)),
    "three models": ((WIDE, NARROW, THIRD), (-1.0, 1.2, 0.8)),
    "product": ((APART, ALIKE), (1.0, 1.0)),
    "annealed 2": ((APART,), (2.0,)),
    "annealed 0.5": ((APART,), (0.5,)),
}
CHURNS = (0.5, 1.0, 1.5, 2.0)
# What is done to increments: (temperature, clamp).
HELD = {"exact": (1.0, math.inf), "temperature 10": (10.0, math.inf), "clamp 0.1": (1.0, 0.1)}


def particles(
    laws: Sequence[Line], weights: Sequence[float], *, n: int, d: int, steps: int, churn: float, seed: int,
    corrected: bool = True, resampled: bool = True, temperature: float = 1.0, clamp: float = math.inf,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(clean [n, d], log-weights [n]) of the sampler's own arithmetic, on even levels."""
    key = Key.from_seed(seed)
    levels = [NoiseLevel(1 - t, t) for t in (*even_times(steps, 50.0, 0.01), 0.0)]
    alpha, sigma = (torch.tensor([getattr(v, name) for v in levels]) for name in ("alpha", "sigma"))
    view = View(NoiseSchedule(alpha, sigma), "flow")
    x = key.fold("start").normal((n, d)).double() * levels[0].sigma / math.sqrt(math.fsum(weights))
    log_w = torch.zeros(n, dtype=torch.float64)
    for i in range(steps):
        start, stop = levels[i], levels[i + 1]
        outputs = [law.velocity(x, start.sigma) for law in laws]
        value = combined(outputs, weights, view, start, x)
        if corrected:
            gain = increment(rate(outputs, weights, view, start, x), start, stop)
            log_w = log_w + subdued(gain, temperature, clamp)
            if resampled and float(ess(log_w)) < n / 2 and i + 1 < steps:
                rows = resample("systematic", normalised(log_w), n, key.fold("resample", i))
                x, value, log_w = x[rows], value[rows], torch.full_like(log_w, float(log_mean_exp(log_w)))
        made = Ddim(churn).transition(x, *view.pair(start, value, x), start, stop)
        x = made.sample(key.fold("noise", i).normal((n, d)).double())
    return x, log_w


def summary(values: Sequence[float]) -> dict[str, float]:
    found = torch.tensor(list(values), dtype=torch.float64)
    return {"mean": float(found.mean()), "error": float(found.std()) / math.sqrt(len(found))}


def law_rows(n: int, steps: int, seeds: int) -> Iterator[dict[str, Any]]:
    for name, (laws, weights) in LAWS.items():
        target = Target(laws, weights)
        exact = [target.distance(target.draw(n, 1000 + s)) for s in range(seeds)]
        row: dict[str, Any] = {"mix": name, "weights": weights, "exact draws": summary(exact)}
        for churn in CHURNS:
            for corrected in (True, False):
                found = []
                for seed in range(seeds):
                    x, log_w = particles(
                        laws, weights, n=n, d=1, steps=steps, churn=churn, seed=seed, corrected=corrected
                    )
                    found.append(target.distance(x, normalised(log_w)))
                row[f"churn {churn}, {'corrected' if corrected else 'as it is'}"] = summary(found)
        yield row


def collapse_rows(n: int, steps: int, seeds: int) -> Iterator[dict[str, Any]]:
    for scale in (1.1, 1.4, 2.5):
        for d in (1, 4, 16, 64, 256):
            row: dict[str, Any] = {"scale": scale, "d": d}
            for label, (temperature, clamp) in HELD.items():
                shares, spreads = [], []
                for seed in range(seeds):
                    _, log_w = particles(
                        (WIDE, NARROW), (1 - scale, scale), n=n, d=d, steps=steps, churn=0.5, seed=seed,
                        resampled=False, temperature=temperature, clamp=clamp,
                    )  # fmt: skip
                    shares.append(float(ess(log_w)) / n)
                    spreads.append(float(log_w.std()))
                row[label] = {"ess_share": summary(shares), "spread": summary(spreads)}
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=3000, help="particles on the line")
    parser.add_argument("--steps", type=int, default=150, help="model calls of a particle on the line")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "options": {k: str(v) for k, v in vars(options).items() if k != "json"},
        "versions": {"genscale": genscale.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "law": [], "collapse": [],
    }  # fmt: skip
    rows = {
        "law": law_rows(options.n, options.steps, options.seeds),
        "collapse": collapse_rows(256, 50, options.seeds),
    }
    for part, found in rows.items():
        for row in found:
            report[part].append(row)
            print(row, flush=True)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
