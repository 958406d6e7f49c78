"""Optical flow between frames by RAFT of torchvision, and what it warps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.verifiers.checkpoints import read_tensors, refusing

NETWORKS = ("raft_large", "raft_small")
LEAST, STRIDE = 128, 8  # sides of the images that RAFT takes: at least this long, and multiples of this
UPDATES = 12  # of the flow: the default of torchvision, and of RAFT's training (Teed & Deng 2020, section 4)

_loaded: WeakValueDictionary[tuple[Any, ...], OpticalFlow] = WeakValueDictionary()


@dataclass(eq=False)
class OpticalFlow:
    """A frozen RAFT (Teed & Deng 2020, arXiv 2003.12039)."""

    network: torch.nn.Module
    device: torch.device

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Flow [n, 2, h, w] in pixels, x and y, float32, without gradients.

        one, other: [n, 3, h, w] in [0, 1]. What is at x in `one` is at x + flow(x) in `other`.
        """
        height, width = one.shape[-2:]
        grow = max(1.0, LEAST / min(height, width))
        box = [max(LEAST, round(side * grow / STRIDE) * STRIDE) for side in (height, width)]
        with torch.no_grad():
            pair = [_resized(x.to(self.device, torch.float32), box) * 2 - 1 for x in (one, other)]
            flow = self.network(*pair, num_flow_updates=UPDATES)[-1]
            flow = _resized(flow, [height, width])
        return flow * flow.new_tensor([width / box[1], height / box[0]]).view(2, 1, 1)


def _resized(x: Tensor, box: list[int]) -> Tensor:
    if list(x.shape[-2:]) == box:
        return x
    return F.interpolate(x, size=box, mode="bilinear", align_corners=False, antialias=True)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """The image [n, c, h, w] read at x + flow(x), bilinear; outside it, its border."""
    height, width = image.shape[-2:]
    x, y = _places(flow)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return F.grid_sample(image, grid.to(image), mode="bilinear", padding_mode="border", align_corners=True)


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    """Which pixels of a frame are seen in the next one, too: bool [n, h, w].

    forward, backward: flows [n, 2, h, w] from the frame to the next and back. The rule of Sundaram et al. 2010 with
    the constants of Ruder et al. 2016 (arXiv 1604.08610, section 5): |w + w'|^2 <= .01 (|w|^2 + |w'|^2) + .5, with w'
    the way back where the way there ends. What leaves the image is not seen.
    """
    height, width = forward.shape[-2:]
    back = warp(backward, forward)
    square = (forward**2).sum(1) + (back**2).sum(1)
    returns = ((forward + back) ** 2).sum(1) <= 0.01 * square + 0.5
    x, y = _places(forward)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return returns & inside


def _places(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where the flow leads: x and y [n, h, w]."""
    height, width = flow.shape[-2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype).view(-1, 1)
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    return columns + flow[:, 0], rows + flow[:, 1]


def optical_flow(network: str, weights: str | None, device: torch.device) -> OpticalFlow:
    """The network; the same object for the same settings, while it is in use.

    weights: a file of torchvision's format; None: torchvision's own, downloaded by it at first use. UsageError: there
    is no such network, or its weights cannot be had.
    """
    if network not in NETWORKS:
        raise UsageError(
            f"there is no optical flow network '{network}' here: choose one of {', '.join(NETWORKS)}."
        )
    key = (network, weights, device)
    found = _loaded.get(key)
    if found is None:
        with torch.inference_mode(False):
            found = _loaded[key] = OpticalFlow(_load(network, weights).to(device), device)
    return found


def _load(name: str, weights: str | None) -> torch.nn.Module:
    from torchvision.models import get_model, get_model_weights

    advice = f"download a file of weights of torchvision's {name} and give it as weights"
    with refusing(f"{name} with weights '{weights or 'of torchvision'}'", advice):
        network: torch.nn.Module = get_model(name, weights=None)
        if weights is None:
            state = get_model_weights(name)["DEFAULT"].get_state_dict(progress=False, check_hash=True)
        else:
            state = read_tensors(Path(weights).expanduser())
        network.load_state_dict(state)
    return network.eval().requires_grad_(False)
