"""Self-distillation: a copy of a verifier's network learns to say of previews what it says of the finished images.

After TTSnap (arXiv 2511.22242): noise level by noise level, from clean to noisy, each copy beginning with the weights
of the cleaner one. Rates and sizes are ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genscale.key import Key

RATE, DECAY, BATCH = 1e-3, 0.05, 32  # of AdamW, with a short warm-up and a cosine to 0 (ours)
WARM_UP = 20  # updates
CLIP = 1.0  # largest length of a gradient


@dataclass(frozen=True)
class Tuning:
    """epochs: passes over the previews of a level. key: of their order."""

    verifier: Any
    epochs: int
    key: Key

    def wanted(self, network: nn.Module, pictures: Tensor) -> Tensor:
        """The frozen network's answers [n, ...] of finished images, uint8 [n, 3, h, w]."""
        with torch.no_grad():
            parts = [
                self.verifier.preview_answers(network, part.float() / 255)
                for part in torch.split(pictures, BATCH)
            ]
        return torch.cat(parts)

    def tuned(
        self, network: nn.Module, pictures: Tensor, wanted: Tensor, say: Callable[[str], None]
    ) -> nn.Module:
        """A copy of a network, tuned on the previews of one level: uint8 [n, 3, h, w], with the wanted answers."""
        made = copy.deepcopy(network).train().requires_grad_(True)
        tool = torch.optim.AdamW(made.parameters(), RATE, weight_decay=DECAY)
        updates, update = self.epochs * math.ceil(len(pictures) / BATCH), 0
        for epoch in range(self.epochs):
            order = torch.argsort(self.key.fold("epoch", epoch).uniform(len(pictures)), stable=True)
            losses = []
            for rows in torch.split(order, BATCH):
                share = min(1.0, (update + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * update / updates))
                tool.param_groups[0]["lr"] = RATE * share
                answers = self.verifier.preview_answers(made, pictures[rows].float() / 255)
                loss = self.verifier.preview_loss(answers, wanted[rows])
                tool.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(made.parameters(), CLIP)
                tool.step()
                update += 1
                losses.append(float(loss.detach()))
            say(f"pass {epoch + 1} of {self.epochs}: loss {sum(losses) / len(losses):.4g}")
        return made.eval().requires_grad_(False)
