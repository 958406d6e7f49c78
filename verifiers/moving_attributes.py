"""P(a video of moving shapes is right), by the detector of `shapes_attributes` on every frame, and where objects go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from genscale.toy.captions import Requirement
from genscale.toy.moving_shapes import DIRECTIONS, SIZE, SPEED, Motion, Prompt, parse
from genscale.toy.shapes import SIZE as SEEN
from genscale.verifiers.attribute_detector import Detection, detections
from genscale.verifiers.by_detector import ByDetector
from genscale.verifiers.differentiable import check_frames
from genscale.verifiers.shapes_attributes import logistic, pixels_of, probability

ZOOM = (
    SEEN / SIZE
)  # frames are shown to the detector at the size of images, so that shapes are as large as there
SLOWEST = (
    SPEED[0] / 2
)  # pixels a frame, at which half a motion is seen: halfway between still and the slowest drawn
SLACK = 0.15  # pixels a frame, scale of the logistic function of speed
STRAY = 0.5  # sideways extent, as a part of the way travelled, at which a path is straight by half
STRAY_SLACK = 0.1
BACK = 0.6  # pixels that a steady object may seem to go back in one frame, by half
BACK_SLACK = 0.2


def probability_of_video(frames: Sequence[Sequence[Detection]], prompt: Prompt) -> float:
    """P(every frame shows just the objects of the caption, and each goes its way).

    Frames of one video err together, so the chance of its objects is the geometric mean over frames, not the product.
    """
    frames = [[_of_some_kind(f) for f in found] for found in frames]
    wanted = Requirement("two", tuple(motion.noun for motion in prompt.motions))
    chances = [probability(found, wanted) for found in frames]
    if min(chances) <= 0:
        return 0.0
    shown = math.exp(float(np.mean(np.log(chances))))
    return shown * math.prod(_moves(frames, motion) for motion in prompt.motions)


def _of_some_kind(found: Detection) -> Detection:
    """The detection, given that it is of a known kind: soft as generated circles of this size are, few look like one.

    Without this the probabilities are far too low (measured in `training/README.md`).
    """
    kinds = found.kinds.copy()
    kinds[-1] = 0
    return found._replace(kinds=kinds / kinds.sum())


def _moves(frames: Sequence[Sequence[Detection]], motion: Motion) -> float:
    """P(the object goes this way, straight and steadily); in every frame it is what is most likely of its noun."""
    best = [max(found, key=lambda f: f.there * f.noun(*motion.noun)) for found in frames]
    path = np.array([(f.x, f.y) for f in best]) / ZOOM
    way = np.array(DIRECTIONS[motion.way])
    along, across = path @ way, path @ way[::-1]
    travelled, steps = float(along[-1] - along[0]), len(path) - 1
    fast = logistic((travelled / steps - SLOWEST) / SLACK)
    straight = logistic((STRAY - float(np.ptp(across)) / max(travelled, 1.0)) / STRAY_SLACK)
    steady = logistic((float(np.diff(along).min()) + BACK) / BACK_SLACK)
    return fast * straight * steady


@dataclass(frozen=True)
class MovingAttributes(ByDetector):
    """P(right), in [0, 1], of videos and captions of the world of moving shapes.

    The detector of `shapes_attributes` looks at every frame: how likely just the caption's objects are there, and
    where. From their places follows how likely each moves as the caption says. It reads the captions of
    `genscale.toy.moving_shapes` and errs like any learned judge: hold `moving_shapes`, the exact one, against it.

    device: where it runs; None: where the videos are. batch_size: frames that are looked at at once.
    """

    name: ClassVar[str] = "moving_attributes"
    judges_videos: ClassVar[bool] = True
    read = staticmethod(parse)

    def __call__(self, media: Sequence[Any], prompts: Sequence[str]) -> Tensor:
        """P(right) [n], float32, of `n` videos (a Media, arrays [frames, h, w, 3], or lists of images)."""
        wanted = [parse(prompt) for prompt in prompts]
        pixels = pixels_of(media)
        check_frames(self.name, pixels)
        n, frames = pixels.shape[:2]
        flat = detections(self._model(pixels.device), pixels.flatten(0, 1), self.batch_size)
        videos = [flat[i * frames : (i + 1) * frames] for i in range(n)]
        scores = [probability_of_video(v, w) for v, w in zip(videos, wanted, strict=True)]
        return torch.tensor(scores, dtype=torch.float32, device=pixels.device)
