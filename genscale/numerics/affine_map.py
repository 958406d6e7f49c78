"""Affine maps by least squares, such as one from the channels of latents to the channels of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AffineMap:
    """weights [c, k] and bias [k], float64 on the CPU."""

    weights: Tensor
    bias: Tensor

    @staticmethod
    def fitted(given: Tensor, wanted: Tensor) -> AffineMap:
        """The map of given [m, c] nearest to wanted [m, k] in squared error; of several the one of least norm, as
        `numpy.linalg.lstsq` gives it for given with a column of ones."""
        given, wanted = (x.detach().cpu().double() for x in (given, wanted))
        ones = torch.cat([given, torch.ones(len(given), 1, dtype=torch.float64)], dim=1)
        found = torch.linalg.lstsq(ones, wanted, driver="gelsd").solution
        return AffineMap(found[:-1], found[-1])

    def __call__(self, x: Tensor) -> Tensor:
        """[n, c, ...] to [n, k, ...], float32 on the device of x."""
        weights, bias = (w.float().to(x.device) for w in (self.weights, self.bias))
        return (x.float().movedim(1, -1) @ weights + bias).movedim(-1, 1)
