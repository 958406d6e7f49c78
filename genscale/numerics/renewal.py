"""What it costs to draw until a draw is accepted, and how often the accepted one is right.

A search draws independent paths of a prompt until one is accepted. By Wald's identity (the renewal argument) it spends
E[cost of a path] E[number of paths], and the number of paths is geometric: 1 / q for a share q of accepted paths. So a
policy is judged on a table of labelled candidates, without running it.

A table has few candidates of each prompt, so q is not known well, and 1 / q is large where q is small. The q of the
prompts are taken to have a Beta law, which is fitted to the table; a prompt's own candidates then give its posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CONCENTRATION = (0.2, 1000.0)  # of the Beta law, at least and at most: 1000 is one share for all prompts


@dataclass(frozen=True)
class Paths:
    """What a policy makes of n labelled candidates.

    cost: float64 [n], what each spends until it is rejected or finished. accepted: bool [n]. right: float64 [n], the
    labels in [0, 1]. prompts: int64 [n], in 0 ... m - 1; every prompt has a candidate.
    """

    cost: Tensor
    accepted: Tensor
    right: Tensor
    prompts: Tensor


@dataclass(frozen=True)
class Outcome:
    """Expectations over prompts, each weighted alike.

    cost: of one prompt until a candidate is accepted, or until the most that it may spend. accuracy: probability that
    an accepted candidate is right; NaN if none is accepted. careful: the same as if there were one more prompt that is
    right and one that is wrong, so that a few prompts cannot show a high one. overall: share right over all prompts,
    with what is not accepted where nothing is. accepted: number of accepted candidates.
    """

    cost: float
    accuracy: float
    careful: float
    overall: float
    accepted: int


def known_draws(share: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """(E[min(T, most)], P(T <= most)) for T the number of draws until the first that is accepted.

    That is (1 - (1 - q)^most) / q and 1 - (1 - q)^most. share: q in [0, 1]. most: at least 1; inf: no limit.
    """
    share, most = share.double(), most.double()
    missed = torch.where(share > 0, (most * torch.log1p(-share)).exp(), 1.0)
    return torch.where(share > 0, (1 - missed) / share.clamp(min=1e-300), most), 1 - missed


def beta_draws(a: Tensor, b: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a share with the law Beta(a, b), a + b > 1.

    E[(1 - q)^j] is (b)_j / (a + b)_j in rising factorials, and E[min(T, most)] is their sum over j < most:
    (a + b - 1) / (a - 1) (1 - (b)_most / (a + b - 1)_most).
    """
    a, b, most = a.double(), b.double(), most.double()
    a = torch.where((a - 1).abs() < 1e-6, 1 + 1e-6, a)  # the limit at 1 is continuous

    def rising(x: Tensor) -> Tensor:
        return torch.lgamma(x + most) - torch.lgamma(x)

    finite = torch.isfinite(most)
    missed = torch.where(finite, (rising(b) - rising(a + b)).exp(), 0.0)
    rest = torch.where(finite, (rising(b) - rising(a + b - 1)).exp(), 0.0)
    draws = (a + b - 1) / (a - 1) * (1 - rest)
    return torch.where(finite | (a > 1), draws, torch.inf), 1 - missed


def beta_law(hits: Tensor, n: Tensor) -> tuple[float, float]:
    """(a, b) of the Beta law of the prompts' shares, by moments. hits: accepted ones of n [m] candidates."""
    shares = hits / n
    mean = float(shares.mean().clamp(1e-6, 1 - 1e-6))
    noise = mean * (1 - mean) * float((1 / n).mean())  # of a share that is counted
    spread = float((shares - mean).square().mean()) - noise
    kept = 1 - float((1 / n).mean())
    within = spread / max(kept, 1e-9)  # of the shares themselves
    low, high = _CONCENTRATION
    concentration = min(max(mean * (1 - mean) / max(within, 1e-9) - 1, low), high)
    return mean * concentration, (1 - mean) * concentration


def follow(
    previews: Tensor, finals: Tensor, rejects: Tensor, accept: Tensor, costs: Tensor
) -> tuple[Tensor, Tensor]:
    """(cost [n], accepted [n]) of candidates under thresholds.

    previews: [n, k]. finals: [n]. rejects: [k], a preview below it ends its path. accept: a finished candidate at or
    above it is accepted. costs: [k + 1], spent up to each preview, and up to the end.
    """
    reached = (previews >= rejects).cumprod(-1).bool()  # [n, k]: passed this preview and all before
    each = costs.double().diff()  # from one preview to the next
    cost = costs[0].double() + (reached.double() * each).sum(-1)
    alive = reached[..., -1] if previews.shape[-1] else torch.ones(cost.shape, dtype=torch.bool)
    return cost, alive & (finals >= accept)


def outcome(paths: Paths, most: float, unknown: float = 0.0, sample: bool = True) -> Outcome:
    """The expectations of a policy.

    most: what one prompt may spend. The number of paths that this pays for is taken to be most / E[cost of a path].
    unknown: the probability that an accepted candidate is right on a prompt that has none in the table, before anything
    is seen. Such a prompt may have one in the end, of lower quality than those of other prompts; it is taken to be like
    the prompts that have one, and `unknown` counts as one of these. sample: whether the candidates are a sample
    of their prompts' (the Beta law); False: all that there is, so that the shares are known.
    """
    m = int(paths.prompts.max()) + 1

    def by_prompt(values: Tensor) -> Tensor:
        return torch.zeros(m, dtype=torch.float64).index_add_(0, paths.prompts, values.double())

    n, hits = by_prompt(torch.ones_like(paths.cost)), by_prompt(paths.accepted)
    each = by_prompt(paths.cost) / n
    affordable = (most / each).clamp(min=1.0)
    if sample:
        a, b = beta_law(hits, n)
        draws, found = beta_draws(a + hits, b + n - hits, affordable)
    else:
        draws, found = known_draws(hits / n, affordable)
    # The first accepted of independent draws is any of the accepted ones, with equal probability.
    right = by_prompt(paths.right * paths.accepted) / hits.clamp(min=1)
    if sample:
        rare = hits == 1
        unknown = (unknown + float(right[rare].sum())) / (1 + int(rare.sum()))
    right = torch.where(hits > 0, right, unknown)
    others = by_prompt(paths.right * ~paths.accepted) / (n - hits).clamp(min=1)
    total, count = float((found * right).sum()), float(found.sum())
    return Outcome(
        float((each * draws).mean()),
        total / count if count else float("nan"),
        (total + 1) / (count + 2),
        float((found * right + (1 - found) * others).mean()),
        int(hits.sum()),
    )
