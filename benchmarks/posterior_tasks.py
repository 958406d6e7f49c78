"""What `benchmarks/posterior.py` asks of samplers: draw from a law that is known otherwise. Two on the plane, one of
real digits, each with the measures that make sense there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import digits
from benchmarks.bed import Bed, Found
from benchmarks.distances import (
    Law,
    Sampled,
    frechet,
    pairs_mean,
    resamples,
    runs_mean,
    squared_distances,
    squared_mmd,
    squared_mmd_of_one,
)
from benchmarks.gaussians import Tilt

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Task:
    """A bed, and what its tilted law looks like.

    prompts: of the runs; a law belongs to each. width: of the MMD's kernel. plain: draws [runs, 1, d] of laws that need
    no sampler: the real one, so that the floor is seen, and the model's own. more: further measures of draws
    [runs, m, d]. facts: what the record should hold of it.
    """

    name: str
    bed: Bed
    prompts: Sequence[str]
    laws: dict[str, Law]
    width: float
    plain: dict[str, Tensor]
    more: Callable[[Tensor, Tensor], dict[str, Tensor]] = lambda draws, counts: {}
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> Tensor:
        order = list(self.laws)
        return resamples([order.index(p) for p in self.prompts], RESAMPLES)

    def groups(self) -> Iterator[tuple[Law, list[int]]]:
        """The runs of each law."""
        for prompt, law in self.laws.items():
            yield law, [i for i, p in enumerate(self.prompts) if p == prompt]

    def over_groups(self, of: Callable[[Law, list[int]], Tensor]) -> Tensor:
        return torch.stack([of(law, rows) for law, rows in self.groups()]).mean(0)

    def of_draws(self, draws: Tensor) -> dict[str, Tensor]:
        """Measures [1 + resamples] of draws [runs, m, d].

        law: squared MMD of one draw of one run, a mean over the laws. variety: mean distance of draws of two runs.
        """
        counts = self.counts

        def law(law: Law, rows: list[int]) -> Tensor:
            return squared_mmd(draws[rows], law, self.width, counts[:, rows])

        def variety(_: Law, rows: list[int]) -> Tensor:
            one = draws[rows, 0]
            return pairs_mean(squared_distances(one, one).sqrt(), counts[:, rows])

        return {
            "law": self.over_groups(law),
            "variety": self.over_groups(variety),
            **self.more(draws, counts),
        }

    def of_runs(self, found: Sequence[Found]) -> dict[str, Tensor]:
        """Those, and of what every run holds by itself: one, the squared MMD of its weighted population; spread, the
        mean distance of two draws of it; reward, its mean."""
        counts, laws = self.counts, [self.laws[p] for p in self.prompts]
        draws = torch.stack([f.pictures[f.drawn].flatten(1) for f in found])
        one, spread = [], []
        for f, law in zip(found, laws, strict=True):
            x = f.pictures.flatten(1)
            one.append(squared_mmd_of_one(x, f.weights, law, self.width))
            spread.append(float(f.weights @ squared_distances(x, x).sqrt() @ f.weights))
        reward = torch.stack([f.weights @ f.totals for f in found])
        return {
            **self.of_draws(draws),
            "one": runs_mean(torch.tensor(one, dtype=torch.float64), counts),
            "spread": runs_mean(torch.tensor(spread, dtype=torch.float64), counts),
            "reward": runs_mean(reward, counts),
        }


def plane(name: str, tilt: Tilt, runs: int, steps: int, seed: int) -> Task:
    """A mixture on the plane; the distance to its tilted law is exact."""
    bed = tilt.bed(steps)
    plain = {
        "exact draws": tilt.law.draw(runs, seed + 1)[:, None],
        "model": bed.base(runs, seed + 2).flatten(1)[:, None],
    }
    shares = 2 * (tilt.mixture.log_weights + tilt.gains).logsumexp(0)
    shares -= (tilt.mixture.log_weights + 2 * tilt.gains).logsumexp(0)
    facts = {"log_z": tilt.log_z, "share_of_plain_runs_that_count": float(shares.exp())}

    def more(draws: Tensor, counts: Tensor) -> dict[str, Tensor]:
        return {"reward": runs_mean(tilt.reward(draws.flatten(0, 1)).view(draws.shape[:2]).mean(1), counts)}

    return Task(name, bed, [""] * runs, {"": tilt.law}, 1.0, plain, more, facts)


def real_digits(runs: int, steps: int, seed: int, folder: Path) -> Task:
    """One of ten digits in turn; the distance is to real digits of it that neither the model nor a classifier saw."""
    world = digits.world(seed, folder=folder)
    bed, unseen = world.bed(steps), world.parts["unseen"]
    prompts = [str(i % digits.CLASSES) for i in range(runs)]
    classes = torch.arange(runs) % digits.CLASSES
    laws: dict[str, Law] = {str(c): Sampled(_shown(unseen.of(c))) for c in range(digits.CLASSES)}
    seen = world.parts["seen"]
    width = float(torch.pdist(_shown(seen.x)).median())
    middles = torch.stack(
        [world.judge.features(digits.picture(unseen.of(c))).mean(0) for c in range(digits.CLASSES)]
    )
    wanted = world.judge.features(digits.picture(unseen.x)) - middles[unseen.y]

    def more(draws: Tensor, counts: Tensor) -> dict[str, Tensor]:
        m = draws.shape[1]
        pictures, asked = _pictures(draws), classes.repeat_interleave(m)
        steers, judge = (net(pictures).double() for net in (world.steers, world.judge))
        measured = {
            "reward": steers.gather(1, asked[:, None])[:, 0],
            "judge": judge.gather(1, asked[:, None])[:, 0],
            "right": (judge.argmax(1) == asked).double(),
        }
        first = world.judge.features(_pictures(draws[:, :1])) - middles[classes]
        return {
            **{k: runs_mean(v.view(-1, m).mean(1), counts) for k, v in measured.items()},
            "frechet": frechet(first, wanted, counts),
        }

    # Exact draws of p(x) p(c | x) / p(c): each plain sample takes a class by the classifier's own probabilities.
    pool, g = bed.base(20 * runs, seed + 1), torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(world.steers(pool).exp(), 1, generator=g)[:, 0]
    plain = {
        "real, seen by the model": _by_class(_shown(seen.x), seen.y, classes),
        "model, tilted exactly": _by_class(pool.flatten(1), drawn, classes),
        "model": bed.base(runs, seed + 2).flatten(1)[:, None],
    }
    facts = {
        "classifier": digits.quality(world.steers, unseen),
        "judge": digits.quality(world.judge, unseen),
        "parts": {name: len(part.x) for name, part in world.parts.items()},
        "nearest": nearest(pool[:1000].flatten(1), world),
    }
    return Task("digits", bed, prompts, laws, width, plain, more, facts)


def nearest(x: Tensor, world: digits.World) -> dict[str, float]:
    """Mean distance of samples to the nearest of 400 real digits that the model saw and of 400 that it did not: a
    model that repeats its data is nearer to the former."""
    g, found = torch.Generator().manual_seed(0), {}
    for name in ("seen", "unseen"):
        part = world.parts[name].x
        some = _shown(part[torch.randperm(len(part), generator=g)[:400]])
        found[name] = float(squared_distances(x, some).amin(1).sqrt().mean())
    return found


def _pictures(draws: Tensor) -> Tensor:
    return draws.float().reshape(-1, 1, digits.SIDE, digits.SIDE)


def _shown(x: Tensor) -> Tensor:
    return digits.picture(x).flatten(1)


def _by_class(x: Tensor, y: Tensor, classes: Tensor) -> Tensor:
    """For every run the next row of its class: [runs, 1, d]."""
    rows = {c: iter((y == c).nonzero()[:, 0].tolist()) for c in range(digits.CLASSES)}
    return torch.stack([x[next(rows[int(c)])] for c in classes])[:, None]
