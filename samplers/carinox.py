"""CARINOX: ReNO from several noises, with rewards weighted by the category of the prompt.

Kasaei et al. 2025, "CARINOX: Inference-time Scaling with Category-Aware Reward-based Initial Noise Optimization and
Exploration" (arXiv 2509.17458; code amirkasaei/carinox).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genscale.algorithms.ascent_options import of_points
from genscale.algorithms.noise_ascent import NoiseGradient
from genscale.algorithms.prompt_category import trust
from genscale.numerics.optimisers import Momentum, clipped
from genscale.protocol.answers import Graded, Scores
from genscale.protocol.interfaces import Process


@dataclass(frozen=True)
class Carinox(NoiseGradient):
    """Gradient ascent from several noises, with every verifier's gradient clipped before they are added.

    starts: 5, the largest published number (1 is the code's default). categories: weight hps, image_reward, da_score
    and vqa_score by the category of the prompt (colours, shapes, textures, positions in two dimensions or three,
    actions, numbers, several of these), in addition to the weights given; other verifiers have 1.
    lr, momentum, clip, reg, iterations: those of `reno`, published. clip: of every verifier's gradient, and of the sum.

    Differences: the published code never reads its category weights, here they are used, in the ascent and in the
    choice of starts; categories are recognised by words. It adds the penalty to every reward, and clips it with them:
    here it is added once. It picks the winner by the plain sum of rewards: here by the weights that the verifiers were
    given.

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
        """Of the verifiers, float64 [k]: the given ones times those of the prompt's category."""
        given = scores.combine(torch.eye(scores.raw.shape[1], dtype=torch.float64))
        if not self.categories:
            return given
        return given * torch.tensor(trust(process.prompt, process.verifiers), dtype=torch.float64)

    def merit(self, scores: Scores, process: Process) -> Tensor:
        return scores.raw @ self.weights(scores, process)

    def slope(self, graded: Graded, process: Process) -> Tensor:
        assert graded.scores is not None
        assert graded.each is not None
        parts = []
        for k, weight in enumerate(self.weights(graded.scores, process).tolist()):
            noises = None if graded.each_noises is None else graded.each_noises[k]
            parts.append(clipped(weight * of_points(graded.each[k], noises, process), self.clip))
        return torch.stack(parts).sum(0)
