"""What a detector saw in an image that matters for its caption, as numbers for a learned preview."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from genscale.toy.captions import Requirement
from genscale.verifiers.attribute_detector import MOST, Detection

LEAST = 1e-4  # probabilities nearer to 0 or 1 say no more (ours)
NAMES = (
    "p", "odds", "count", "error", "square", "least", "mean", "known", "sure", "required", "relation", "absent"
)  # fmt: skip


def features(found: Sequence[Detection], requirement: Requirement, probability: float) -> list[float]:
    """Numbers by NAMES.

    p, odds: P(right) and its log-odds. count: expected number of objects; error: its distance from the required one,
    and square. least, mean: of the required nouns, the probability that the surest detection of it is there and is one.
    known: expected share of objects of the world. sure: entropy of whether the objects are there, in nats. required:
    number of objects of the caption. relation, absent: whether it has one.
    """
    p = min(max(probability, LEAST), 1 - LEAST)
    there = np.array([f.there for f in found[:MOST]])
    count = float(there.sum())
    wanted = requirement.count if requirement.nouns else 1
    nouns = [max((f.there * f.noun(*noun) for f in found), default=0.0) for noun in requirement.nouns] or [p]
    known = sum(f.there * f.known for f in found) / max(count, LEAST)
    unsure = float(-(there * np.log(there + 1e-9) + (1 - there) * np.log(1 - there + 1e-9)).sum())
    return [
        probability, math.log(p / (1 - p)), count, abs(count - wanted), (count - wanted) ** 2, min(nouns),
        float(np.mean(nouns)), known, unsure, float(wanted), float(requirement.relation is not None),
        float(not requirement.nouns),
    ]  # fmt: skip
