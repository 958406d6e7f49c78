"""What it costs to draw until a draw is accepted, and how often the accepted one is right.

A search draws independent paths of a prompt until one is accepted. By Wald's identity (the renewal argument) it spends
E[cost of a path] E[number of paths], and the number of paths is geometric: 1 / q for a share q of accepted paths. So a
policy is judged on a table of labelled candidates, without running it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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

    cost: of one prompt until a candidate is accepted, or until the most that it may spend. accuracy: share of the
    prompts' accepted candidates that are right, over the prompts that have one; NaN if none has. careful: the same as
    if there were one more prompt that is right and one that is wrong, so that a few prompts cannot show a high one.
    overall: share right over all prompts, with what is finished but not accepted where nothing is. accepted: number of
    candidates.
    """

    cost: float
    accuracy: float
    careful: float
    overall: float
    accepted: int


def expected_draws(share: Tensor, most: Tensor) -> Tensor:
    """E[min(T, most)] for T the number of draws until the first that is accepted: (1 - (1 - q)^most) / q.

    share: q in [0, 1]. most: at least 1; inf: no limit. With q = 0 it is `most`.
    """
    share, most = share.double(), most.double()
    missed = (most * torch.log1p(-share)).exp()  # (1 - q)^most; 0 for q = 1
    return torch.where(share > 0, (1 - missed) / share.clamp(min=1e-300), most)


def follow(
    previews: Tensor, finals: Tensor, rejects: Tensor, accept: Tensor, costs: Tensor
) -> tuple[Tensor, Tensor]:
    """(cost [..., n], accepted [..., n]) of candidates under thresholds.

    previews: [n, k]. finals: [n]. rejects: [..., k], a preview below it ends its path. accept: [...], a finished
    candidate at or above it is accepted. costs: [k + 1], spent up to each preview, and up to the end.
    """
    passed = previews >= rejects[..., None, :]
    reached = passed.cumprod(-1).bool()  # [..., n, k]: passed this preview and all before
    each = costs.double().diff()  # from one preview to the next
    cost = costs[0].double() + (reached.double() * each).sum(-1)
    alive = reached[..., -1] if previews.shape[-1] else torch.ones(cost.shape, dtype=torch.bool)
    return cost, alive & (finals >= accept[..., None])


def outcome(paths: Paths, most: float, shrink: float = 1.0) -> Outcome:
    """The expectations of a policy.

    most: what one prompt may spend. The number of paths that this pays for is taken to be most / E[cost of a path].
    shrink: the share of accepted paths of a prompt, s of n, is taken as (s + shrink q) / (n + shrink), q being the mean
    share of all prompts. 1 by default (ours): with 0, a prompt without an accepted candidate counts as one that never
    has any, and a prompt with two of two as one that always has.
    """
    m = int(paths.prompts.max()) + 1

    def by_prompt(values: Tensor) -> Tensor:
        return torch.zeros(m, dtype=torch.float64).index_add_(0, paths.prompts, values.double())

    n, hits = by_prompt(torch.ones_like(paths.cost)), by_prompt(paths.accepted)
    each = by_prompt(paths.cost) / n
    share = (hits + shrink * (hits / n).mean()) / (n + shrink)
    draws = (most / each).clamp(min=1.0)
    cost = each * expected_draws(share, draws)
    # The first accepted of independent draws is any of the accepted ones, with equal probability.
    right = by_prompt(paths.right * paths.accepted) / hits.clamp(min=1)
    others = by_prompt(paths.right * ~paths.accepted) / (n - hits).clamp(min=1)
    found = 1 - (draws * torch.log1p(-share)).exp()
    some = hits > 0
    overall = torch.where(some, found * right + (1 - found) * others, others)
    total, count = float(right[some].sum()), int(some.sum())
    return Outcome(
        float(cost.mean()),
        total / count if count else float("nan"),
        (total + 1) / (count + 2),
        float(overall.mean()),
        int(hits.sum()),
    )
