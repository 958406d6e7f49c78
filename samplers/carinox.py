"""CARINOX: ReNO from several noises, with rewards weighted by the category of the prompt.

Kasaei et al. 2025, "CARINOX: Inference-time Scaling with Category-Aware Reward-based Initial Noise Optimization and
Exploration" (arXiv 2509.17458; code amirkasaei/carinox).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genscale.algorithms.ascent_options import of_points
from genscale.algorithms.noise_ascent import NoiseGradient
from genscale.engine.prompt_category import trust
from genscale.numerics.optimisers import Momentum, clipped
from genscale.protocol.answers import Graded, Scores
from genscale.protocol.interfaces import Process


@dataclass(frozen=True)
class Carinox(NoiseGradient):
    """Gradient ascent from several noises, with every verifier's gradient clipped before they are added.

    starts: 5 by default, the largest published number (the authors' code has a default of 1).
    categories: whether the rewards hps, image_reward, da_score and vqa_score are weighted by the category of the
        prompt, in addition to the weights that the verifiers were given. The categories are colours, shapes, textures,
        positions in two or three dimensions, actions, numbers, and several of these together. Other verifiers have a
        factor of 1.
    lr, momentum, reg, iterations: as in `reno`, published.
    clip: 0.1 as in `reno`, published. It limits the gradient of every verifier, and then their sum.

    Differences: the published code never reads its category weights; here they are used in the ascent and in the choice
    of starts. Categories are recognised by words in the prompt. The published code adds the penalty to every reward and
    clips them together; here it is added once. The published code picks the winner by the plain sum of rewards; here
    the sum has the weights that the verifiers were given.

    Cost in NFE: as of `reno`, with g = f for the forward and 2 f (3 f of several steps) for each verifier.
    """

    starts: int = 5
    lr: float = 5.0
    momentum: float = 0.9
    clip: float | None = 0.1
    categories: bool = True

    PUBLISHED: ClassVar[int] = 50
    each: ClassVar[bool] = True

    def optimiser(self) -> Momentum:
        return Momentum(self.lr, self.momentum)

    def weights(self, scores: Scores, process: Process) -> Tensor:
        """Weights of the verifiers, float64 [k]: the given ones times those of the prompt's category."""
        given = scores.combine(torch.eye(scores.raw.shape[1], dtype=torch.float64))
        if not self.categories:
            return given
        return given * torch.tensor(trust(process.prompt, process.verifiers), dtype=torch.float64)

    def merit(self, scores: Scores, process: Process) -> Tensor:
        merits = scores.raw @ self.weights(scores, process)
        return merits if scores.failed is None else merits.masked_fill(scores.failed, -math.inf)

    def slope(self, graded: Graded, process: Process) -> Tensor:
        assert graded.scores is not None
        assert graded.each is not None
        parts = []
        for k, weight in enumerate(self.weights(graded.scores, process).tolist()):
            noises = None if graded.each_noises is None else graded.each_noises[k]
            parts.append(clipped(weight * of_points(graded.each[k], noises, process), self.clip))
        return torch.stack(parts).sum(0)
