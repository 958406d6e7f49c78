"""Heads of linear layers without activations between: together one affine map, one vector and one number."""

from __future__ import annotations

import torch
from torch import Tensor

LayersByPlace = dict[int, dict[str, Tensor]]


def folded(layers: LayersByPlace) -> tuple[Tensor, float]:
    """Weight [width] and bias, in float64, of layers {place: {"weight": ..., "bias": ...}} in their order."""
    first = next(iter(layers.values()))["weight"]
    weight = torch.eye(first.shape[1], dtype=torch.float64)
    bias = torch.zeros(first.shape[1], dtype=torch.float64)
    for layer in layers.values():
        weight = layer["weight"].double() @ weight
        bias = layer["weight"].double() @ bias + layer["bias"].double()
    return weight.reshape(first.shape[1]), bias.item()
