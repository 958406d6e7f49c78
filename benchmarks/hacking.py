"""Reward hacking, and which ways of joining three imperfect verifiers beat it: the held-out judge against N.

From the pools of benchmarks/hacking_pool.py, offline. The verifiers are `shapes_clip`, a classifier that only counts,
and a linear head on CLIP embeddings that likes red, which has nothing to do with the prompts. The judge `shapes` is
exact and no search sees it. What has to be fitted (the head, scales and noise, weights, probabilities) is fitted on the
development half of the prompts; what is reported is of the report half, which shares no prompt with it.

    python -m benchmarks.hacking POOL --model shapes-diffusion --json benchmarks/results/hacking-diffusion-4.json
    python -m benchmarks.hacking_page docs/explanation/honest-verifiers.md docs/hacking.png \\
        benchmarks/results/hacking-*.json

The value of a prompt at N is the expected verdict of the winner among N of its candidates, drawn without replacement:
exact where a total does not depend on the other candidates, and else the mean over random subsets (`DRAWS`), the same
ones for all ways. Intervals are 95 %, over prompts; those of differences are paired by prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import interval, parser_for
from benchmarks.hacking_pool import BLOCK, KEPT, Scorers, read_pool
from genscale.engine.ensembles import Column, joined
from genscale.engine.selection import noise_of_total
from genscale.numerics.order_statistics import best_of
from genscale.numerics.probability_curve import choose, folds
from genscale.numerics.rank_correlation import agreement
from genscale.numerics.ridge import Linear, chosen_ridge
from genscale.numerics.turning_point import turn_of
from genscale.results.score_calibration import MeasuredScores, measured
from genscale.results.verifier_calibration import Level, Member, fit_level
from genscale.toy.hard_prompts import COUNTS, DEVELOPMENT, REPORT, kind
from genscale.verifiers.harmless_changes import CHANGES, changed, harmless

VERIFIERS = ("clip", "count", "red")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DRAWS = {
    1: 64,
    2: 48,
    4: 32,
    8: 24,
    16: 16,
    32: 8,
    64: 4,
    128: 2,
}  # subsets; as large as the pool there is one
ABSTAIN = 2.0  # standard deviations of the noise of a total (`--abstain 2sd`)
Pool = dict[str, np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """What the development half tells. raw: scores [n, K] of its candidates; right, prompts: [n]."""

    pool: Pool
    head: Linear
    raw: np.ndarray
    right: np.ndarray
    prompts: np.ndarray

    @staticmethod
    def of(pool: Pool) -> Fitted:
        shape = pool["clip"].shape
        prompts = np.repeat(np.arange(shape[0]), shape[1])
        seen = pool["embedding"].reshape(len(prompts), -1).astype(np.float64)
        head = chosen_ridge(seen, pool["red"].reshape(-1).astype(np.float64), prompts).predictor
        return Fitted(pool, head, scores(pool, head).reshape(len(prompts), -1), _flat(pool["judge"]), prompts)

    @cached_property
    def scales(self) -> tuple[MeasuredScores, ...]:
        """As `genscale calibrate` has them; the noise is of the candidates whose pixels were kept."""
        members = [Member.unscored(name, {}) for name in VERIFIERS]
        found, _ = measured(VERIFIERS, members, self.raw, self._changed(), self.prompts)
        return found

    def _changed(self) -> dict[str, np.ndarray]:
        score, every = Scorers(), {}
        for change in CHANGES:
            again = np.full((*self.pool["clip"].shape, len(VERIFIERS)), np.nan)
            for i, prompt in enumerate(DEVELOPMENT):
                if harmless(change, prompt.text):
                    pixels = changed(change, torch.from_numpy(self.pool["pixels"][i]).float() / 255)
                    again[i, :KEPT] = scores(
                        {k: v[None] for k, v in score(pixels, prompt).items()}, self.head
                    )[0]
            every[change] = again.reshape(-1, len(VERIFIERS))
        return every

    @cached_property
    def weights(self) -> dict[str, list[float]]:
        """By kind of prompt, and "all": how far each verifier agrees with the judge within a prompt, at least 0."""
        kinds = np.array([kind(p) for p in DEVELOPMENT])[self.prompts]
        return {name: self._agreed(np.ones_like(kinds, bool) if name == "all" else kinds == name)
                for name in ("all", *COUNTS)}  # fmt: skip

    def _agreed(self, some: np.ndarray) -> list[float]:
        found = []
        for k in range(len(VERIFIERS)):
            pools = [
                [v[self.prompts == p] for p in np.unique(self.prompts[some])]
                for v in (self.raw[:, k], self.right)
            ]
            found.append(max(agreement(*pools).rho or 0.0, 0.0))
        return found

    @cached_property
    def curves(self) -> list[Any]:
        fold = folds(self.right, self.prompts)
        return [choose(column, self.right, fold) for column in self.raw.T]

    @cached_property
    def level(self) -> Level:
        """As `genscale calibrate-verifier` joins them."""
        return fit_level(1.0, self.raw, self.right, self.prompts)

    def columns(self, weights: Sequence[float]) -> list[Column]:
        return [Column(w, s.mean, s.sd, s.noise) for w, s in zip(weights, self.scales, strict=True)]


def scores(pool: Pool, head: Linear) -> np.ndarray:
    """Of the three verifiers, [..., candidates, K]."""
    seen = pool["embedding"].astype(np.float64)
    red = head(seen.reshape(-1, seen.shape[-1])).reshape(seen.shape[:-1])
    return np.stack([pool["clip"], pool["count"], red], axis=-1).astype(np.float64)


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1).astype(np.float64)


@dataclass(frozen=True)
class Way:
    """A way to choose. totals: from the scores [n, K] of candidates of a prompt of some kind to totals [n].

    pointwise: whether a total does not depend on the other candidates. margin: the base, which is the first candidate,
    is kept unless another is better by more; None: never.
    """

    totals: Callable[[np.ndarray, str], np.ndarray]
    pointwise: bool = True
    margin: Callable[[str], float] = lambda kind: -1.0


def ways(fit: Fitted) -> dict[str, Way]:
    """Every way, by name."""

    def by(ensemble: str, columns: Callable[[str], Sequence[Column]], unit: Any = None) -> Any:
        def totals(raw: np.ndarray, kind: str) -> np.ndarray:
            told = torch.from_numpy(raw if unit is None else unit(raw))
            return joined(ensemble, told, columns(kind)).numpy()

        return totals

    def alone(k: int) -> Way:
        return Way(lambda raw, kind: raw[:, k])

    def fitted(weights: Callable[[str], Sequence[float]]) -> Callable[[str], list[Column]]:
        return lambda kind: fit.columns(weights(kind))

    def abstaining(columns: Callable[[str], list[Column]]) -> Way:
        margin = lambda kind: ABSTAIN * noise_of_total("standardised", columns(kind))  # noqa: E731
        return Way(by("standardised", columns), margin=margin)

    def likely(raw: np.ndarray) -> np.ndarray:
        return np.stack([curve(column) for curve, column in zip(fit.curves, raw.T, strict=True)], axis=1)

    equal, chances = [Column()] * len(VERIFIERS), [Column(probability=True)] * len(VERIFIERS)
    by_kind, only_clip = fitted(lambda kind: fit.weights[kind]), fitted(lambda kind: (1.0, 0.0, 0.0))
    return {
        **{name: alone(k) for k, name in enumerate(VERIFIERS)},
        "rank sum": Way(by("rank", lambda kind: equal), pointwise=False),
        "minimum": Way(by("minimum", lambda kind: equal), pointwise=False),
        "standardised sum": Way(by("standardised", lambda kind: equal), pointwise=False),
        "Pareto order": Way(by("pareto", lambda kind: equal), pointwise=False),
        "clip, abstaining": abstaining(only_clip),
        "weights by agreement": Way(by("standardised", fitted(lambda kind: fit.weights["all"]))),
        "weights by category": Way(by("standardised", by_kind)),
        "weights by category, abstaining": abstaining(by_kind),
        "product of probabilities": Way(by("product", lambda kind: chances, likely)),
        "product of experts": Way(by("log_odds", lambda kind: chances, likely)),
        "minimum of probabilities": Way(by("minimum", lambda kind: chances, likely)),
        "calibrated together": Way(lambda raw, kind: fit.level(raw)),
    }


def value(way: Way, raw: np.ndarray, right: np.ndarray, kind: str, n: int, subsets: np.ndarray) -> float:
    """The expected verdict of the winner among n candidates of one prompt."""
    margin = way.margin(kind)
    if n == 1:
        return float(right.mean())
    if way.pointwise and margin < 0:
        return best_of(way.totals(raw, kind).tolist(), right.tolist(), n)
    won = []
    whole = way.totals(raw, kind) if way.pointwise else None
    for subset in subsets:
        totals = way.totals(raw[subset], kind) if whole is None else whole[subset]
        best = int(totals.argmax())
        won.append(right[subset[best if totals[best] - totals[0] > margin else 0]])
    return float(np.mean(won))


def measure(fit: Fitted, pool: Pool) -> dict[str, dict[str, list[float]]]:
    """By way and N, the values of the prompts."""
    raw, right = scores(pool, fit.head), pool["judge"].astype(np.float64)
    prompts, whole = right.shape
    rng, found = np.random.default_rng(0), dict[str, dict[str, list[float]]]()
    every = ways(fit) | {
        name: Way(lambda given, kind: given[:, 0]) for name in ("attributes", "the judge itself")
    }
    of = {"attributes": pool["attributes"][..., None], "the judge itself": right[..., None]}
    for n in (n for n in SIZES if n <= whole):
        count = 1 if n in (1, whole) else DRAWS[n]
        subsets = [np.stack([rng.permutation(whole)[:n] for _ in range(count)]) for _ in range(prompts)]
        for name, way in every.items():
            given = of.get(name, raw)
            each = [value(way, given[i], right[i], kind(REPORT[i]), n, subsets[i]) for i in range(prompts)]
            found.setdefault(name, {})[str(n)] = [round(v, 4) for v in each]
    return found


def told(rows: dict[str, dict[str, list[float]]]) -> None:
    """Print the table."""
    sizes = list(next(iter(rows.values())))
    for name, row in rows.items():
        gain = interval([b - a for a, b in zip(row["4"], row[sizes[-1]], strict=True)])
        turn = turn_of(np.array([row[n] for n in sizes]).T.tolist())
        turned = f"turns at {sizes[turn.peak]}" if turn is not None and turn.turned else ""
        means = " ".join(f"{np.mean(row[n]):.3f}" for n in sizes)
        print(f"{name:34s} {means}   {sizes[-1]} less 4: {gain[0]:+.3f} ± {gain[1]:.3f} {turned}", flush=True)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("pool", type=Path, help="the folder of benchmarks/hacking_pool.py")
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    fit = Fitted.of(read_pool(options.pool, "development"))
    found = {"model": options.model, "steps": options.steps, "pools": []}
    for blocks in (1, 4):
        pool = read_pool(options.pool, "report", blocks)
        if pool:
            rows = measure(fit, pool)
            print(f"{options.model}: {len(pool['judge'])} prompts, {blocks * BLOCK} candidates")
            told(rows)
            found["pools"].append({"candidates": blocks * BLOCK, "prompts": len(pool["judge"]), "rows": rows})
    seen, red = (pool_red := read_pool(options.pool, "report"))["embedding"], pool_red["red"]
    guess = fit.head(seen.reshape(-1, seen.shape[-1]).astype(np.float64))
    found |= {
        "red": float(np.corrcoef(guess, _flat(red))[0, 1]),
        "scales": [asdict(s) | {"member": None, "noise_share": s.noise_share} for s in fit.scales],
        "weights": fit.weights,
        "log odds weights": list(fit.level.combination.weights),
    }
    if options.json:
        options.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
