"""How well each frame of a video is the next one, moved along the optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice, ModelSettings, check_frames
from genscale.verifiers.optical_flow import OpticalFlow, optical_flow, visible, warp


def warping_errors(one: Tensor, other: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Mean over the pixels that both frames show of |one - warped other|^2, summed over colours: [n].

    one, other: [n, 3, h, w]; forward, backward: flows [n, 2, h, w] between them, in pixels. Lai et al. 2018 (arXiv
    1808.00449), section 4.2. Where no pixel is seen in both, as at a cut, all count.
    """
    seen = visible(forward, backward)
    seen = seen | ~seen.flatten(1).any(1).view(-1, 1, 1)
    square = ((one - warp(other, forward)) ** 2).sum(1)
    return (square * seen).flatten(1).sum(1) / seen.flatten(1).sum(1)


@dataclass(frozen=True)
class WarpError(LoadedPerDevice[OpticalFlow], Differentiable):
    """Minus the warping error of neighbouring frames, -3 to 0 (each frame is the next one, moved).

    Lai et al. 2018, "Learning Blind Video Temporal Consistency" (arXiv 1808.00449): the mean squared difference of a
    frame and the next one warped by the optical flow, of pixels that are seen in both; the flow is RAFT's (Teed & Deng
    2020, arXiv 2003.12039). It takes the place of VBench's motion smoothness, which interpolates frames by AMT, a
    network that no maintained package has; numbers do not compare.

    Blind spots: a still video has the largest score, 0, and a blurred one is near it; light that changes counts as an
    error. Use it beside `dynamic_degree` and a verifier of the prompt. Gradients pass through the frames, not the flow.

    network: "raft_large" or "raft_small". weights: file of its weights in torchvision's format; None: torchvision's
        own, downloaded by it at first use. device: where it runs; None: where the frames are.
    batch_size: pairs of frames whose flow is found at once.
    """

    network: str = "raft_large"
    weights: str | None = None
    device: str | None = None
    batch_size: int = 8

    name: ClassVar[str] = "warp_error"
    reads_prompts: ClassVar[bool] = False
    judges_videos: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ModelSettings(device=self.device, batch_size=self.batch_size)  # refuses them now

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of videos [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_frames(self.name, pixels)
        flow = self._model(pixels.device)
        x = pixels.to(flow.device, torch.promote_types(pixels.dtype, torch.float32))
        pairs = zip(
            torch.split(x[:, :-1].flatten(0, 1), self.batch_size),
            torch.split(x[:, 1:].flatten(0, 1), self.batch_size),
            strict=True,
        )
        errors = [
            warping_errors(a, b, flow(a.detach(), b.detach()), flow(b.detach(), a.detach())) for a, b in pairs
        ]
        return -torch.cat(errors).view(len(pixels), -1).mean(1)

    @property
    def backbone(self) -> str:
        """The network of the optical flow."""
        return f"{self.network} {self.weights or ''}".strip()

    def _load_on(self, device: torch.device) -> OpticalFlow:
        return optical_flow(self.network, self.weights, device)
