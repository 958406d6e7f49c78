"""The exact verifier of the toy world of shapes: what is in an image, by geometry, and whether its caption says so.

First the connected components of the foreground are found, then the colour nearest to most of a component's inner
pixels, then the best matching template of a kind on its bounding box. (Labelling by colour first fails: an antialiased
border looks like other colours.) No network is involved, so it can be held out while a learned verifier steers a
search.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage

from genscale.errors import UsageError
from genscale.toy.shapes import (
    COLOURS,
    GROUND,
    KINDS,
    SIZE,
    Noun,
    Requirement,
    Shape,
    is_absent,
    parse,
    related,
    signed_distance,
)

Pixels = npt.NDArray[np.float32]

FOREGROUND = 70.0  # levels, of 255, by which some channel must differ from the background
MIN_PIXELS = 14  # smaller components are ignored
MIN_OVERLAP = 0.72  # least agreement (intersection over union) with a template; below it the kind is "blob"
MIN_PURITY = 0.6  # least part of a component's inner pixels of one colour; below it the colour is "mixed"
GRID = 24  # templates and components are compared on GRID x GRID points of their bounding boxes


class Template(NamedTuple):
    """A kind of shape in its bounding box: `cover` [GRID, GRID] in [0, 1]; lengths in units of the radius."""

    cover: Pixels
    width: float
    height: float
    middle: float


@functools.cache
def templates() -> dict[str, Template]:
    found = {}
    line = np.linspace(-1.2, 1.2, 481, dtype=np.float32)
    for kind in KINDS:
        inside = signed_distance(kind, *np.meshgrid(line, line)) <= 0
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        top, bottom, left, right = line[rows[0]], line[rows[-1]], line[columns[0]], line[columns[-1]]
        box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
        found[kind] = Template(_fit(box), float(right - left), float(bottom - top), float(bottom + top) / 2)
    return found


def _fit(box: Pixels) -> Pixels:
    """`box` resampled to [GRID, GRID] by area."""
    image = Image.fromarray(box).resize((GRID, GRID), Image.Resampling.BOX)
    return np.asarray(image, np.float32)


def detect(image: Image.Image) -> list[Shape]:
    """The objects in `image`, largest first; kind "blob" or colour "mixed" where none of the world's matches.

    Images of another size are resized to SIZE x SIZE first, so positions are always in the world's pixels.
    """
    image = image.convert("RGB")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    return objects(np.asarray(image, np.float32))


def objects(pixels: Pixels) -> list[Shape]:
    """The objects in `pixels` [height, width, 3], 0 to 255, as `detect` names them; lengths in these pixels."""
    contrast = np.abs(pixels - np.array(GROUND, np.float32)).max(2)
    labels, _ = ndimage.label(contrast > FOREGROUND)
    shapes = []
    for i, window in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[window] == i
        if inside.sum() >= MIN_PIXELS:
            shapes.append(_shape(pixels[window], contrast[window], inside, window))
    return sorted(shapes, key=lambda shape: -shape.radius)


def _shape(
    pixels: Pixels, contrast: Pixels, inside: npt.NDArray[np.bool_], window: tuple[slice, slice]
) -> Shape:
    colour, full = _colour(pixels, contrast, inside)
    cover = np.where(inside, np.minimum(contrast / full, 1), 0).astype(np.float32)
    height, width = cover.shape
    kind, template, overlap = max(
        ((k, t, _overlap(cover, t)) for k, t in templates().items()), key=lambda found: found[2]
    )
    radius = (width / template.width + height / template.height) / 2
    x = window[1].start + width / 2
    y = window[0].start + height / 2 - template.middle * radius
    return Shape(kind if overlap >= MIN_OVERLAP else "blob", colour, float(x), float(y), float(radius))


def _colour(pixels: Pixels, contrast: Pixels, inside: npt.NDArray[np.bool_]) -> tuple[str, float]:
    """The colour of most inner pixels, or "mixed", and the contrast of a fully covered pixel."""
    inner = ndimage.binary_erosion(inside, np.ones((3, 3)))
    if inner.sum() < 0.15 * inside.sum():
        inner = inside & (contrast >= np.quantile(contrast[inside], 0.6))
    palette = np.array(list(COLOURS.values()), np.float32)
    nearest = np.linalg.norm(pixels[inner][:, None] - palette, axis=2).argmin(1)
    votes = np.bincount(nearest, minlength=len(palette))
    best = int(votes.argmax())
    full = float(np.median(contrast[inner][nearest == best]))
    return (list(COLOURS)[best] if votes[best] >= MIN_PURITY * votes.sum() else "mixed"), full


def _overlap(cover: Pixels, template: Template) -> float:
    """Intersection over union in the bounding box, less where the box has other proportions."""
    box = _fit(cover)
    overlap = float(np.minimum(box, template.cover).sum() / np.maximum(box, template.cover).sum())
    ratio = (cover.shape[1] / cover.shape[0]) / (template.width / template.height)
    return overlap * float(min(1.0, 1.2 * min(ratio, 1 / ratio)))


def satisfies(shapes: Sequence[Shape], requirement: Requirement) -> bool:
    """Whether these are exactly the required objects, in the required relation, and nothing else.

    Where a caption only says what is absent: whether there is some object, all are known, and none is of that kind.
    """
    if not requirement.nouns:
        return bool(shapes) and all(_allowed(shape, requirement) for shape in shapes)
    if Counter(shape.noun for shape in shapes) != Counter(requirement.nouns):
        return False
    return requirement.relation is None or _holds(shapes, requirement)


def _allowed(shape: Shape, requirement: Requirement) -> bool:
    known = shape.kind in KINDS and shape.colour in COLOURS
    return known and not is_absent(shape.noun, requirement)


def _holds(shapes: Sequence[Shape], requirement: Requirement) -> bool:
    """Whether all of `shapes` named by the first noun are in the requirement's relation to all of the second.

    Of two objects of one noun: whether either is to the other.
    """
    first, second = requirement.nouns[0], requirement.nouns[-1]
    pairs = [(a, b) for a in shapes for b in shapes if a.noun == first and b.noun == second and a is not b]
    holds = [related(a, b, requirement.relation or "") for a, b in pairs]
    return bool(pairs) and (any(holds) if first == second else all(holds))


def fraction(shapes: Sequence[Shape], requirement: Requirement) -> float:
    """The part of the requirement that is met, in [0, 1]; 1 exactly where `satisfies`.

    Every object that is found or required counts as one part, half met by its colour or kind alone; a relation is one
    more part. Where a caption only says what is absent, the parts are the objects found, met by those it allows.
    """
    if not requirement.nouns:
        return sum(_allowed(shape, requirement) for shape in shapes) / max(len(shapes), 1)
    wanted, found = list(requirement.nouns), [shape.noun for shape in shapes]
    met = 0.0
    for likeness in (1.0, 0.5):
        for noun in list(wanted):
            match = next((f for f in found if _likeness(noun, f) == likeness), None)
            if match is not None:
                met += likeness
                wanted.remove(noun)
                found.remove(match)
    parts = max(requirement.count, len(shapes))
    if requirement.relation is not None:
        met, parts = met + _holds(shapes, requirement), parts + 1
    return met / parts


def _likeness(a: Noun, b: Noun) -> float:
    return ((a[0] == b[0]) + (a[1] == b[1])) / 2


def check_captions(verifier: str, parse: Callable[[str], Any], prompts: Sequence[str]) -> None:
    """UsageError for the first prompt that a verifier of a toy world cannot read."""
    for prompt in prompts:
        try:
            parse(prompt)
        except ValueError as error:
            raise UsageError(f"verifier '{verifier}': {error}") from None


@dataclass(frozen=True)
class Shapes:
    """1 where an image satisfies its caption, else 0; with `graded`, the fraction of the caption
    that is met.

    Knows the captions of `genscale.toy.shapes` only; another caption is a ValueError that says which
    words there are.

    graded: the fraction in place of 0 and 1.
    """

    graded: bool = False

    name: ClassVar[str] = "shapes"
    reads_prompts: ClassVar[bool] = True

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """UsageError for a prompt that is no caption of the world."""
        check_captions("shapes", parse, prompts)

    def __call__(self, media: Sequence[Any], prompts: Sequence[str]) -> torch.Tensor:
        """Scores [n], float32 in [0, 1], of `n` images (PIL images) with as many captions."""
        requirements = [parse(prompt) for prompt in prompts]
        score = fraction if self.graded else satisfies
        return torch.tensor(
            [float(score(detect(image), wanted)) for image, wanted in zip(media, requirements, strict=True)]
        )
