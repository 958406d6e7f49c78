"""Masked diffusion of three tokens over two words, whose chains can be enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from scipy import stats
from torch import Tensor

LENGTH, WORDS, MASK, ROWS = 3, 2, 2, 4000
STATES = list(itertools.product(range(WORDS + 1), repeat=LENGTH))

torch.manual_seed(5)
CLEAN = (1.5 * torch.randn(len(STATES), LENGTH, WORDS, dtype=torch.float64)).softmax(-1)
"""p(x0_l | x_t): the predicted law of each token, in each state. No product, and not consistent between states."""


def number(tokens: Tensor) -> Tensor:
    """Which of STATES each row is."""
    return (tokens * torch.tensor([(WORDS + 1) ** (LENGTH - 1 - i) for i in range(LENGTH)])).sum(-1)


Rate = Callable[[float, float], float]


def enumerated(alphas: tuple[float, ...], rate: Rate, commit: Any = None) -> list[list[float]]:
    """The law over STATES after each step, by the two formulas of the paper, token by token."""
    law, laws = [float(state == (MASK,) * LENGTH) for state in STATES], []
    for before, after in itertools.pairwise(alphas):
        sigma = rate(before, after)
        p = (after - (1 - sigma) * before) / (1 - before) if commit is None else commit(before, after)
        following = [0.0] * len(STATES)
        for i, state in enumerate(STATES):
            for j, target in enumerate(STATES):
                chance = law[i]
                for place, (old, new) in enumerate(zip(state, target, strict=True)):
                    if old == MASK:
                        chance *= 1 - p if new == MASK else p * float(CLEAN[i, place, new])
                    else:
                        chance *= sigma if new == MASK else (1 - sigma) * (new == old)
                following[j] += chance
        law = following
        laws.append(law)
    return laws


def p_value(tokens: Tensor, law: list[float]) -> float:
    """Of a chi-squared test; 0 where there is what the law says there cannot be."""
    found = torch.bincount(number(tokens), minlength=len(STATES)).double()
    expected = torch.tensor(law, dtype=torch.float64) * len(tokens)
    possible = expected > 1e-9
    if bool((found[~possible] > 0).any()):
        return 0.0
    return float(stats.chisquare(found[possible], expected[possible] * len(tokens) / expected.sum()).pvalue)


def bound(before: float, after: float) -> float:
    return 1.0 if before == 0 else min(1.0, (1 - after) / before)
