"""Muon for the inner matrices, AdamW for all else.

Muon (Jordan et al., 2024) takes the momentum of each matrix and makes its singular values about
equal by a few Newton-Schulz steps, so that no direction of a layer is left behind. Here matrices of
one shape are treated as one batch, and convolution kernels as matrices of output channels by the
rest.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def orthogonalised(matrices: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """`matrices` [k, rows, columns] with singular values brought near 1."""
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = wide / (wide.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; an update has the size of `rate` times 0.2 times the root of the
    longer side per row, as Adam's would."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
            for (rows, columns), parameters in shapes.items():
                updates = []
                for parameter in parameters:
                    buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    buffer.lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(buffer, group["momentum"]).reshape(rows, columns))
                scale = 0.2 * max(rows, columns) ** 0.5
                for parameter, update in zip(parameters, orthogonalised(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)


def optimisers(module: nn.Module, muon: float, adam: float, inner: str) -> list[torch.optim.Optimizer]:
    """Muon over the matrices whose name contains a word of `inner` ("attn|ff"), AdamW elsewhere."""
    matrices, rest = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            chosen = muon > 0 and parameter.ndim >= 2 and any(word in name for word in inner.split("|"))
            (matrices if chosen else rest).append(parameter)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=0.0)
    ]
    if matrices:
        found.append(Muon(matrices, lr=muon, decay=0.01))
    for optimiser in found:
        for group in optimiser.param_groups:
            group["top"] = group["lr"]
    return found
