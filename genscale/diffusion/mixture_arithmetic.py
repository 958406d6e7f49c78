"""Weighted sums of predictions, computed in the pipeline's own precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genscale.diffusion.noise_schedule import NoiseLevel
from genscale.diffusion.prediction import View
from genscale.errors import UsageError

ONE = 1e-9  # weights sum to 1 within this


def combined(
    outputs: Sequence[Tensor], weights: Sequence[float], view: View | str, level: NoiseLevel | None, x: Tensor
) -> Tensor:
    """Weighted sum of model outputs [n, ...] of one kind, at one noise level and latents x [n, *latent].

    It is computed in at least float32 and returned in the dtype of the first output. If the weights sum to 1, the
    outputs themselves are combined, including a learned variance. Otherwise, or for outputs of different shapes, the
    scores (eps) are combined, and the variance is that of the first output. The scheduler applies its limit on clean
    estimates to the result. UsageError: the weights do not sum to 1 and the noise levels cannot be read, or they sum to
    0 at pure noise.
    """
    first, whole_weight = outputs[0], total(weights)
    if whole_weight == 1 and all(o.shape == first.shape for o in outputs):
        whole = weights[0] * _exact(first)
        for output, w in zip(outputs[1:], weights[1:], strict=True):
            whole = whole + w * _exact(output)
        return whole.to(first.dtype)
    seen, at = readable(view, level)
    pairs = [seen.pair(at, output, x) for output in outputs]
    eps = torch.stack([w * pair[1] for pair, w in zip(pairs, weights, strict=True)]).sum(0)
    if whole_weight == 1:
        x0 = torch.stack([w * pair[0] for pair, w in zip(pairs, weights, strict=True)]).sum(0)
    elif at.alpha > 0:
        x0 = (x - at.sigma * eps) / at.alpha
    else:  # pure noise, drawn from the power of the prior: the weighted mean of the clean estimates
        if abs(whole_weight) <= ONE:
            raise UsageError(
                "the weights of a mix sum to 0 at pure noise, where the mix is then undefined: use other weights."
            )
        eps = x.to(eps.dtype) / at.sigma
        x0 = torch.stack([w / whole_weight * pair[0] for pair, w in zip(pairs, weights, strict=True)]).sum(0)
    whole = seen.output_at(at, x0, eps)
    if first.shape != whole.shape:
        whole = torch.cat([whole, first[:, whole.shape[1] :]], 1)
    return whole.to(first.dtype)


def rate(
    outputs: Sequence[Tensor], weights: Sequence[float], view: View | str, level: NoiseLevel | None, x: Tensor
) -> Tensor:
    """d log w / d log(alpha / sigma) [n] float64: |sum w eps|^2 - sum w |eps|^2 over the whole latent.

    With these weights the mix samples prod q_i^w_i (Feynman-Kac correctors, arXiv 2503.02819). The rate is the same for
    every churn, interpolant and kind of prediction. A limit on clean estimates is ignored; the weights are then not
    exact. The two terms nearly cancel if the sources agree, so differences are taken first: for any m and
    S = sum w eps the rate is |S - m|^2 + (sum w - 1) |m|^2 - sum w |eps - m|^2.
    """
    seen, at = readable(view, level)
    each = torch.stack([seen.pair(at, o, x)[1].flatten(1).double() for o in outputs])
    w, more, m = torch.tensor(list(weights), dtype=torch.float64).to(each.device), total(weights) - 1, each[0]
    gaps = each - m
    moved = torch.einsum("k,knd->nd", w, gaps) + more * m
    spread = torch.einsum("k,knd->n", w, gaps.square())
    return moved.square().sum(1) + more * m.square().sum(1) - spread


def readable(view: View | str, level: NoiseLevel | None) -> tuple[View, NoiseLevel]:
    """The view without its limit, and the noise level. UsageError: they cannot be read."""
    if isinstance(view, str) or level is None:
        raise UsageError(f"weights that do not sum to 1 mix scores, which needs noise levels: {view}.")
    return replace(view, limit=None), level


def total(weights: Sequence[float]) -> float:
    """The sum of weights; exactly 1 if it is 1 up to rounding."""
    found = math.fsum(weights)
    return 1.0 if abs(found - 1) <= ONE else found


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
