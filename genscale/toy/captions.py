"""The captions of the small world of coloured shapes, and what an image must show to satisfy one.

Captions come in five categories, in the manner of GenEval:

    single     a red star
    two        a red star and a blue ring          two kinds, two colours
    colours    a red star and a blue star          one kind, told apart by colour alone
    counting   three green circles                 two to four
    position   a red star left of a blue ring      left of, right of, above, below

A sixth of the combinations of colour, kind and number or axis never occurs in training: see
`held_out`. Three further categories, `HARD`, never do (`genscale.toy.hard_prompts`):

    three      red star and blue ring and green circle        without articles: the models read eight words
    together   two red stars left of a blue ring              up to four objects; each of the first by each other
    negation   a red star no square, no blue circle           also "and no"
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from genscale.errors import quoted

KINDS = ("circle", "square", "triangle", "star", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 165, 70),
    "blue": (45, 85, 220),
    "yellow": (245, 200, 30),
    "purple": (150, 60, 180),
    "black": (35, 35, 40),
}
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {"two": 2, "three": 3, "four": 4}
CATEGORIES = ("single", "two", "colours", "counting", "position")
HARD = ("three", "together", "negation")

Noun = tuple[str, str]
"""What a caption says about one object: (colour, kind)."""


@dataclass(frozen=True)
class Requirement:
    """What an image must show: exactly these objects, the first kind of them in this relation to the others.

    absent: (colour or "", kind) that must not be there. With no `nouns`, any other objects may be, and one must.
    """

    category: str
    nouns: tuple[Noun, ...]
    relation: str | None = None
    absent: Noun | None = None

    @property
    def count(self) -> int:
        return len(self.nouns)

    @property
    def groups(self) -> tuple[tuple[Noun, int], ...]:
        """The nouns with the number of their objects, as they follow each other in the caption."""
        together = self.category in ("counting", *HARD)
        return tuple(Counter(self.nouns).items()) if together else tuple((noun, 1) for noun in self.nouns)

    @property
    def text(self) -> str:
        """The caption, such that `parse(requirement.text) == requirement`."""
        words = {1: "" if self.category == "three" else "a "} | {n: f"{word} " for word, n in NUMBERS.items()}
        parts = [f"{words[n]}{noun[0]} {noun[1]}{'s' if n > 1 else ''}" for noun, n in self.groups]
        caption = f" {self.relation or 'and'} ".join(parts)
        return f"{caption} no {' '.join(self.absent).strip()}".strip() if self.absent else caption


@dataclass(frozen=True)
class Prompt:
    """A caption of the toy world, and what an image must show to satisfy it."""

    text: str
    requirement: Requirement

    @property
    def category(self) -> str:
        return self.requirement.category


_GROUP = re.compile(rf"(?:(an?|no|{'|'.join(NUMBERS)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(KINDS)})(s?)")
_JOINT = re.compile(rf" (and|{'|'.join(RELATIONS)}|(?=no\b)) ?")


def parse(text: str) -> Requirement:
    """The Requirement of the caption `text`. ValueError: it is not a caption of this world."""
    plain = " ".join(text.lower().replace(".", " ").replace(",", " ").split())
    parts = _JOINT.split(plain)
    groups = [match.groups() for part in parts[::2] if (match := _GROUP.fullmatch(part))]
    if len(groups) == len(parts[::2]) and (found := _requirement(groups, parts[1::2])):
        return found
    raise ValueError(
        f"{quoted(text)} is no caption of the shapes world, which knows 'a red star', 'a red star and a blue ring',"
        f" 'three green circles' and 'a red star left of a blue ring' (and 'red star and blue ring and green circle',"
        f" 'two red stars left of a blue ring', 'a red star and no square'), of the kinds {', '.join(KINDS)},"
        f" the colours {', '.join(COLOURS)}, the numbers {', '.join(NUMBERS)}"
        f" and the relations {', '.join(RELATIONS)}."
    )


def _requirement(groups: Sequence[tuple[str | None, ...]], joints: Sequence[str]) -> Requirement | None:
    """Of groups (article or number, colour, kind, plural s) and the words between them; None: no caption."""
    negated = groups[-1][0] == "no"
    shown = groups[:-1] if negated else groups
    bare = len(groups) == 3 and all(word is None for word, *_ in groups)
    if any(
        not c or w == "no" or (w in NUMBERS) != bool(s) or (w is None and not bare) for w, c, _, s in shown
    ):
        return None
    nouns = tuple((str(c), str(k)) for w, c, k, _ in shown for _ in range(NUMBERS.get(w or "", 1)))
    different = len(set(nouns)) == len(shown)
    relation = joints[0] if joints and joints[0] in RELATIONS else None
    if negated:
        found = Requirement("negation", nouns, absent=(groups[-1][1] or "", str(groups[-1][2])))
        fits = len(shown) < 2 and not relation and not groups[-1][3] and len(nouns) <= 4
        return found if fits and not any(is_absent(noun, found) for noun in nouns) else None
    if len(shown) == 1:
        return Requirement("counting" if len(nouns) > 1 else "single", nouns)
    if len(shown) == len(nouns) == 2:
        if relation:
            return Requirement("position", nouns, relation)
        return Requirement("colours" if nouns[0][1] == nouns[1][1] else "two", nouns) if different else None
    if len(shown) == 2 and different and len(nouns) <= 4:
        return Requirement("together", nouns, relation)
    if len(shown) == len(nouns) == 3 and different and set(joints) == {"and"}:
        return Requirement("three", nouns)
    return None


def is_absent(noun: Noun, requirement: Requirement) -> bool:
    """Whether the caption says that there is no such object."""
    colour, kind = requirement.absent or ("", "")
    return noun[1] == kind and colour in ("", noun[0])


def held_out(requirement: Requirement) -> bool:
    """Whether training leaves this combination out, as it does a sixth of those with several objects.

    With colours and kinds numbered as listed, a pair is left out where the sum of its colours,
    twice the sum of its kinds and the axis (0 for "and", 1 for left and right, 2 for above and
    below) is a multiple of six; a count where colour, twice the kind and the number add up so.
    Mirrored captions ("a left of b", "b right of a") fall together; every noun and every relation
    is seen. The categories of `HARD`, and relations of two objects of one noun, are left out altogether.
    """
    one_noun = requirement.category == "position" and requirement.nouns[0] == requirement.nouns[1]
    if requirement.category in HARD or one_noun:
        return True
    if requirement.count == 1:
        return False
    nouns = requirement.nouns[:1] if requirement.category == "counting" else requirement.nouns
    total = sum(list(COLOURS).index(colour) + 2 * KINDS.index(kind) for colour, kind in nouns)
    if requirement.category == "counting":
        return (total + requirement.count) % 6 == 0
    axis = 0 if requirement.relation is None else 1 + RELATIONS.index(requirement.relation) // 2
    return (total + axis) % 6 == 0
