"""Affine maps by least squares, such as one from the channels of latents to the channels of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AffineMap:
    """weights [c, k] and bias [k], float64 on the CPU."""

    weights: Tensor
    bias: Tensor

    @staticmethod
    def fitted(given: Tensor, wanted: Tensor, penalty: float = 0.0) -> AffineMap:
        """The map of given [m, c] nearest to wanted [m, k] in squared error; of several the one of least norm, as
        `numpy.linalg.lstsq` gives it for given with a column of ones.

        penalty: of the squared weights (Hoerl & Kennard 1970), in units of the mean variance of a channel, where points
        are few; the bias is free.
        """
        given, wanted = (x.detach().cpu().double() for x in (given, wanted))
        m, c = given.shape
        rows, targets = torch.cat([given, given.new_ones(m, 1)], dim=1), wanted
        if penalty:
            weight = math.sqrt(penalty * m * float(given.var(0, correction=0).mean()))
            square = weight * torch.eye(c, dtype=torch.float64)
            rows = torch.cat([rows, torch.cat([square, given.new_zeros(c, 1)], dim=1)])
            targets = torch.cat([wanted, wanted.new_zeros(c, wanted.shape[1])])
        found = torch.linalg.lstsq(rows, targets, driver="gelsd").solution
        return AffineMap(found[:-1], found[-1])

    def __call__(self, x: Tensor) -> Tensor:
        """[n, c, ...] to [n, k, ...], float32 on the device of x."""
        weights, bias = (w.float().to(x.device) for w in (self.weights, self.bias))
        return (x.float().movedim(1, -1) @ weights + bias).movedim(-1, 1)
