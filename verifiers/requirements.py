"""What an image must show, and whether detected objects do: a verdict by the rules of GenEval, and a soft one.

GenEval: Ghosh et al. 2023, arXiv 2310.11513, section 3 and its evaluate_images.py. An image is right if every noun
that is wanted is there as often as wanted, in the wanted colour and place, and none that is unwanted is there too
often. Colour and place are looked at on the surest objects only: as many as are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genscale.verifiers.detections import MARGIN, SLOPE, Detection, directions, relations

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""The colours that are told apart, GenEval's."""
THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
"""The least score of an object, and where objects are counted: GenEval's, chosen for the scores of a Mask2Former."""
COUNTING = "counting"
WIDTH = 0.1  # of the step from no relation to a relation in the soft verdict, in the numbers of `directions`

Objects = Mapping[str, Sequence[Detection]]


@dataclass(frozen=True)
class Wanted:
    """`count` or more of a noun. colour: of all of them, one of COLOURS. place: (relation, index of the wanted noun
    that it refers to)."""

    noun: str
    count: int = 1
    colour: str | None = None
    place: tuple[str, int] | None = None


@dataclass(frozen=True)
class Unwanted:
    """Fewer than `count` of a noun."""

    noun: str
    count: int = 1


@dataclass(frozen=True)
class Requirement:
    """All of `wanted`, and all of `unwanted`. tag: GenEval's name of the task, which decides the threshold."""

    wanted: tuple[Wanted, ...]
    unwanted: tuple[Unwanted, ...] = ()
    tag: str = ""

    @property
    def nouns(self) -> tuple[str, ...]:
        """What must be looked for, each once."""
        return tuple(dict.fromkeys([p.noun for p in self.wanted] + [p.noun for p in self.unwanted]))

    @property
    def coloured(self) -> tuple[str, ...]:
        """The nouns whose colour matters, each once."""
        return tuple(dict.fromkeys(part.noun for part in self.wanted if part.colour is not None))


@dataclass(frozen=True)
class Rules:
    """The settings of a verdict; the verifier explains them."""

    threshold: float = THRESHOLD
    counting_threshold: float = COUNTING_THRESHOLD
    margin: float = MARGIN

    def least(self, requirement: Requirement) -> float:
        """The threshold that goes with a requirement."""
        return self.counting_threshold if requirement.tag == COUNTING else self.threshold


def verdict(requirement: Requirement, objects: Objects, rules: Rules) -> bool:
    """Whether the objects are what is required. objects: of each noun the surest first, of any score."""
    least = rules.least(requirement)
    there = {noun: [d for d in found if d.score > least] for noun, found in objects.items()}
    groups: list[Sequence[Detection] | None] = []
    for part in requirement.wanted:
        found = there.get(part.noun, [])[: part.count]
        fits = len(found) == part.count and all(part.colour in (None, d.colour) for d in found)
        if fits and part.place is not None:
            relation, target = part.place
            others = groups[target]
            fits = others is not None and all(
                relation in relations(d.box, other.box, rules.margin) for d in found for other in others
            )
        groups.append(found if fits else None)
    return None not in groups and all(len(there.get(p.noun, [])) < p.count for p in requirement.unwanted)


def soft_verdict(requirement: Requirement, objects: Objects, rules: Rules, softness: float = 1.0) -> float:
    """The same as a number in [0, 1], which orders images of one prompt; it becomes the verdict as softness goes to 0.

    A product over everything that the verdict asks for:
        an object that must be there: 1 / (1 + exp(-(logit s - logit t) / softness)), for the score s of the object and
            the threshold t, so 1/2 at the threshold; 0 where there is no such object at all. Of `count` objects the
            product over the `count` surest.
        an object too many: 1 minus the same, for the first one that must not be there.
        a colour: the share that it has in the object's colours, each raised to 1 / softness.
        a place: 1 / (1 + exp(-(d - SLOPE) / (WIDTH softness))), for d of `directions`, over all pairs.
    It is no probability: the scores of detectors are not calibrated.
    """
    least = rules.least(requirement)
    groups: list[Sequence[Detection]] = []
    product = 1.0
    for part in requirement.wanted:
        found = objects.get(part.noun, ())[: part.count]
        groups.append(found)
        if len(found) < part.count:
            return 0.0
        for one in found:
            product *= _presence(one.score, least, softness)
            product *= 1.0 if part.colour is None else _share(one, part.colour, softness)
        if part.place is not None:
            relation, target = part.place
            for one in found:
                for other in groups[target]:
                    much = directions(one.box, other.box, rules.margin)[relation]
                    product *= _logistic((much - SLOPE) / (WIDTH * softness))
    for spare in requirement.unwanted:
        found = objects.get(spare.noun, ())
        if len(found) >= spare.count:
            product *= 1 - _presence(found[spare.count - 1].score, least, softness)
    return product


def _presence(score: float, least: float, softness: float) -> float:
    if score <= 0 or score >= 1:
        return float(score >= 1)
    return _logistic((_logit(score) - _logit(least)) / softness)


def _share(one: Detection, colour: str, softness: float) -> float:
    """The share of a colour among all, each raised to 1 / softness; in logarithms, so that nothing underflows."""
    logs = {name: math.log(p) / softness for name, p in (one.colours or {}).items() if p > 0}
    if colour not in logs:
        return 0.0
    most = max(logs.values())
    return math.exp(logs[colour] - most) / sum(math.exp(value - most) for value in logs.values())


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def _logistic(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    grown = math.exp(max(x, -700.0))
    return grown / (1 + grown)
