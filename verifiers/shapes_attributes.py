"""P(an image of the shapes world is right), by a detector of objects, their kinds and their colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.toy.captions import RELATIONS, Requirement, parse
from genscale.toy.shapes import MARGIN
from genscale.verifiers.attribute_detector import Detection, Detector, detections, resized, soft_loss
from genscale.verifiers.attribute_features import features
from genscale.verifiers.by_detector import ByDetector

SLACK = (
    1.0  # pixels: how far the distance of two detected centres may err, as the scale of a logistic function
)
_WAYS = dict(zip(RELATIONS, ((-1, 0), (1, 0), (0, -1), (0, 1)), strict=True))


def probability(found: Sequence[Detection], requirement: Requirement) -> float:
    """P(exactly the required objects are there, in the required relation), the detections independent of each other.

    The sum over all subsets of detections that may be the objects, and over all ways in which they may be named.
    """
    if not requirement.nouns:
        return _only_allowed(found, requirement)
    there = np.array([f.there for f in found])
    total = 0.0
    for chosen in itertools.combinations(range(len(found)), requirement.count):
        others = np.delete(there, chosen)
        weight = float(there[list(chosen)].prod() * (1 - others).prod())
        if weight > 1e-9:
            total += weight * _named([found[i] for i in chosen], requirement)
    return min(total, 1.0)


def _named(objects: Sequence[Detection], requirement: Requirement) -> float:
    """P(these objects are the required ones, in the relation), summed over the ways in which they can be told apart."""
    total = 0.0
    for nouns in sorted(set(itertools.permutations(requirement.nouns))):
        chance = math.prod(f.noun(*noun) for f, noun in zip(objects, nouns, strict=True))
        if requirement.relation is not None and chance > 1e-9:
            chance *= _related(objects, nouns, requirement)
        total += chance
    return total


def _related(
    objects: Sequence[Detection], nouns: Sequence[tuple[str, str]], requirement: Requirement
) -> float:
    """P(all objects named by the first noun are in the relation to all of the second; of one noun, some pair is)."""
    first, second = requirement.nouns[0], requirement.nouns[-1]
    x, y = _WAYS[requirement.relation or ""]
    chances = [
        logistic((x * (a.x - b.x) + y * (a.y - b.y) - MARGIN) / SLACK)
        for (i, a), (j, b) in itertools.product(enumerate(objects), repeat=2)
        if i != j and nouns[i] == first and nouns[j] == second
    ]
    return max(chances) if first == second else min(chances)


def _only_allowed(found: Sequence[Detection], requirement: Requirement) -> float:
    """P(there is an object, and all that are there have a known kind and colour and are not of the absent noun)."""
    colour, kind = requirement.absent or ("", "")
    none = math.prod(1 - f.there for f in found)
    fine = math.prod(1 - f.there + f.there * max(0.0, f.known - f.noun(colour, kind)) for f in found)
    return max(0.0, fine - none)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))


def pixels_of(media: Sequence[Any]) -> Tensor:
    """[n, 3, h, w] (or [n, frames, 3, h, w]) in [0, 1] of a Media, or of PIL images, arrays, or lists of them."""
    if isinstance(media, Media):
        return media.pixels
    arrays = [np.stack([np.asarray(f) for f in m]) if isinstance(m, list) else np.asarray(m) for m in media]
    return torch.from_numpy(np.stack(arrays)[..., :3].copy()).movedim(-1, -3).float() / 255


@dataclass(frozen=True)
class ShapesAttributes(ByDetector):
    """P(right), in [0, 1], of images and captions of the shapes world, by a small detector that comes with genscale.

    The detector (640,000 weights, trained on drawn scenes only) says how surely an object is where, of which kind and
    colour; from that follows the probability that just the objects of the caption are there, in their relation. It
    stands for the detectors of GenEval (Ghosh et al. 2023, arXiv 2310.11513) and for question answering on real images.
    Reads the captions of `genscale.toy.captions`, also those of `genscale.toy.hard_prompts`. Like any learned judge it
    errs: hold `shapes`, the exact one, with which it shares nothing but the captions, against it.

    Blind spots: objects beyond the sixth; what is no object, as a tinted ground. Of a preview it answers how likely
    the preview itself is right, blurred as it is, not the image that it will become.

    device: where it runs; None: where the images are. batch_size: images that are looked at at once.
    """

    name: ClassVar[str] = "shapes_attributes"
    read = staticmethod(parse)

    def __call__(self, media: Sequence[Any], prompts: Sequence[str]) -> Tensor:
        """P(right) [n], float32, of `n` images (a Media, or PIL images of one size) with as many captions."""
        wanted, (device, found) = [parse(prompt) for prompt in prompts], self._found(media)
        scores = [probability(some, requirement) for some, requirement in zip(found, wanted, strict=True)]
        return torch.tensor(scores, dtype=torch.float32, device=device)

    def _found(
        self, media: Sequence[Any], network: Detector | None = None
    ) -> tuple[torch.device, list[list[Detection]]]:
        """The device of the images, and what is in each. network: in place of its own."""
        pixels = pixels_of(media)
        if pixels.ndim != 4:
            raise UsageError(
                "shapes_attributes scores images and was given videos: use moving_attributes for those."
            )
        own = self._model(pixels.device) if network is None else network
        return pixels.device, detections(own, pixels, self.batch_size)

    # ---------------------------------------------------------------- learned previews

    def preview_network(self, device: torch.device) -> Detector:
        """Its network, frozen, of which a learned preview tunes copies."""
        return self._model(device)

    def preview_answers(self, network: Detector, pixels: Tensor) -> Tensor:
        """What a copy of its network answers of pixels [n, 3, h, w] in [0, 1]; keeps the graph to the weights."""
        answers: Tensor = network(resized(pixels).contiguous(memory_format=torch.channels_last))
        return answers

    def preview_loss(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """How far answers [n, ...] are from those of the finished images: the loss of its training, with soft labels.

        Kinds, colours and places count where the finished image has an object.
        """
        return soft_loss(answers, wanted)

    def preview_features(
        self, media: Sequence[Any], prompts: Sequence[str], network: Detector | None = None
    ) -> Tensor:
        """What a learned preview reads [n, F], by `attribute_features.NAMES`. network: a tuned copy of its own."""
        rows = [
            features(some, wanted, probability(some, wanted))
            for some, wanted in zip(self._found(media, network)[1], map(parse, prompts), strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)
