"""What a prompt requires of the objects in the image, read by rules of our own.

    prompt    [frame] part {joint part}[.]
    frame     "a photo of", and "photograph", "picture", "image", "painting", "drawing", "illustration", "render" with
              up to three words before, as "an old black and white photo of"
    part      [amount] [colour] noun, or "no" [colour-less] noun
    amount    a, an, the, one, two ... twelve, or a number from 1 to 16; none: one
    colour    red, orange, yellow, green, blue, purple, pink, brown, black, white; "red-colored" as well
    noun      one to four words, in the plural after a number above one
    joint     "and", ",", "with", "next to", "beside", or a place: "left of", "right of", "above", "below", also as "to
              the left of", "on the right of", "over", "on top of", "under", "beneath", "underneath"

A number above one is exact: not one more. A place says where the part before it is, seen from the part behind it. "no"
and "without" ask that none is there. Each noun may occur once: the rules look at the surest objects of a noun, and
could not tell two groups of one noun apart. Anything else is refused: give the requirement as metadata.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from genscale.errors import UsageError, quoted
from genscale.verifiers.detections import MOST
from genscale.verifiers.requirements import COLOURS, COUNTING, Requirement, Unwanted, Wanted
from genscale.verifiers.singular import singular

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ARTICLES = ("a", "an", "the")
PLACES = {
    "left of": r"(?:(?:to|on) the )?left(?: side)? of",
    "right of": r"(?:(?:to|on) the )?right(?: side)? of",
    "above": r"above|over|on top of",
    "below": r"below|beneath|underneath|under",
}
WORDS = 4  # of a noun
_FRAME = re.compile(
    r"(?:[\w'-]+ ){0,6}?(?:photo|photograph|picture|image|painting|drawing|illustration|render|rendering) of (?=\S)"
)
_PLACE = "|".join(f"(?P<p{n}>{words})" for n, words in enumerate(PLACES.values()))
_JOINT = re.compile(
    rf"\s*(?:(?:,\s*)?\b(?:{_PLACE}|and(?: with)?|with|next to|beside|(?P<without>without))\b|,)\s*"
)
_STRANGE = re.compile(
    "in|on|at|of|to|by|from|for|into|onto|near|behind|between|through|across|around|against|along|is|are|was|be|being"
    "|that|which|who|whose|while|where|when|his|her|their|its|this|these|those|not|nor|or|as|than|a|an|the|some|many"
    "|several|few"
)


@dataclass(frozen=True)
class _Part:
    noun: str
    count: int
    colour: str | None
    absent: bool


def read_prompt(prompt: str) -> Requirement:
    """What a prompt requires. UsageError: the rules above cannot read it, with the reason."""
    text = " ".join(prompt.lower().split()).rstrip(".!").strip()
    frame = _FRAME.match(text)
    parts, joints = _parted(text[frame.end() :] if frame else text)
    missing = [False, *(joint == "without" for joint in joints)]
    read = [_part(part, prompt, absent) for part, absent in zip(parts, missing, strict=True)]
    nouns = [part.noun for part in read]
    twice = next((noun for noun in nouns if nouns.count(noun) > 1), None)
    if twice is not None:
        raise _refused(
            prompt, f"{quoted(twice)} occurs twice, and the detector's rules cannot tell them apart"
        )
    for part in read:
        if part.absent and part.colour is not None:
            raise _refused(
                prompt, f"a colour of {quoted(part.noun)}, which must not be there, cannot be checked"
            )
    return _requirement(read, joints, prompt)


def _parted(text: str) -> tuple[list[str], list[str]]:
    """The parts, and what joins each to the next: a relation, "without" or ""."""
    parts, joints, at = list[str](), list[str](), 0
    for match in _JOINT.finditer(text):
        parts.append(text[at : match.start()].strip())
        place = next((name for n, name in enumerate(PLACES) if match[f"p{n}"]), "")
        joints.append(place or ("without" if match["without"] else ""))
        at = match.end()
    return [*parts, text[at:].strip()], joints


def _part(text: str, prompt: str, absent: bool) -> _Part:
    words, count = text.split(), 1
    if words[:1] == ["no"]:
        absent, words = True, words[1:]
    elif words and words[0] in (*ARTICLES, *NUMBERS):
        count = NUMBERS.index(words[0]) + 1 if words[0] in NUMBERS else 1
        words = words[1:]
    elif words and words[0].isdecimal() and len(words[0]) < 4:
        count, words = int(words[0]), words[1:]
    if not 1 <= count < MOST:
        raise _refused(prompt, f"{count} is not among the numbers from 1 to {MOST - 1}")
    colour = None
    first = re.sub(r"-colou?red$", "", words[0]) if words else ""
    if len(words) > 1 and first in COLOURS:
        colour, words = first, words[1:]
    if not words:
        raise _refused(prompt, "a noun is missing" + (f" after {quoted(text)}" if text else ""))
    strange = next((w for w in words if _STRANGE.fullmatch(w) or not re.fullmatch(r"[\w'-]+", w)), None)
    if strange is not None or len(words) > WORDS:
        why = f"because of {quoted(strange)}" if strange else f"which has more than {WORDS} words"
        raise _refused(prompt, f"{quoted(' '.join(words))} is not read as a noun, {why}")
    noun = " ".join([*words[:-1], singular(words[-1])]) if count > 1 or absent else " ".join(words)
    return _Part(noun, count, colour, absent)


def _requirement(parts: list[_Part], joints: list[str], prompt: str) -> Requirement:
    """Places refer to parts that come earlier in `wanted`, as in GenEval: so the parts are taken from the last to the
    first where there is one."""
    order = range(len(parts) - 1, -1, -1) if any(j in PLACES for j in joints) else range(len(parts))
    wanted, at = list[Wanted](), dict[int, int]()
    for n in order:
        part = parts[n]
        relation = joints[n] if n < len(joints) and joints[n] in PLACES else None
        if relation and (part.absent or parts[n + 1].absent):
            raise _refused(prompt, "what must not be there has no place")
        if part.absent:
            continue
        place = (relation, at[n + 1]) if relation else None
        at[n] = len(wanted)
        wanted.append(Wanted(part.noun, part.count, part.colour, place))
    exact = [Unwanted(part.noun, part.count + 1) for part in wanted if part.count > 1]
    absent = [Unwanted(part.noun) for part in parts if part.absent]
    return Requirement(tuple(wanted), (*exact, *absent), tag_of(wanted))


def tag_of(wanted: list[Wanted]) -> str:
    """GenEval's name of the task that a requirement is most like."""
    if any(part.count > 1 for part in wanted):
        return COUNTING
    if any(part.place for part in wanted):
        return "position"
    several = len(wanted) > 1
    if any(part.colour for part in wanted):
        return "color_attr" if several else "colors"
    return "two_object" if several else "single_object"


def _refused(prompt: str, why: str) -> UsageError:
    return UsageError(
        f"detector cannot read {quoted(prompt)}: {why}; write it as 'a photo of two red clocks', or give its objects "
        "in a file: metadata=FILE."
    )
