"""Questions from the words of an English prompt, by a small grammar: things, their attributes, numbers and relations.

A prompt is read as noun phrases between relations: "two red balls on a wooden table" is (2, red, balls) on (wooden,
table). What it asks: is there each thing; has it each attribute; are there exactly so many; does each relation hold.
The last three depend on the things being there (TIFA, Hu et al. 2023, arXiv 2303.11897; the dependencies of DSG, Cho et
al. 2024, arXiv 2310.18235, whose questions a language model writes).

Limits: English. Attributes are colours, materials, shapes, sizes and textures of a fixed list; other words before a
noun stay part of its name, and tags of style ("8k") are asked about like things. A relation belongs to the nouns right
before and behind it. A verb is a word in -ing behind a noun. Pronouns, negations, styles and moods are not asked about.
Where no noun is found, the whole prompt is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from genscale.verifiers.questions import YesNo, whole


def _words(text: str) -> list[str]:
    return text.split()


NUMBERS = {
    word: number
    for number, word in enumerate(_words("one two three four five six seven eight nine ten eleven twelve"), 1)
}
DEFINITE = set(_words("the his her its their this that"))
SINGULAR = set(_words("a an one another each every"))
DETERMINERS = SINGULAR | DEFINITE | set(_words("some several many few these those"))
ATTRIBUTES = set(
    _words(
        """red orange yellow green blue purple violet pink brown black white grey gray golden silver beige cyan magenta
        turquoise teal maroon crimson navy colorful colourful transparent wooden metal metallic glass leather rubber
        plastic fabric woolen velvet silk denim stone marble ceramic paper brick concrete fluffy furry smooth rough
        glossy shiny matte rusty wet dry broken empty full open closed old new young big large huge small little tiny
        tall short long wide narrow thick thin round circular oval square rectangular triangular spherical cubic conical
        cylindrical curved pointed hexagonal striped spotted checkered plaid happy sad angry bright dark"""
    )
)
_RELATIONS = """to the left of,on the left of,on the left side of,left of,to the right of,on the right of,
    on the right side of,right of,on top of,at the top of,at the bottom of,in front of,in the middle of,next to,
    close to,inside of,on,in,inside,behind,above,below,under,underneath,beneath,beside,near,over,against,around,at,by,
    with,without,through,across,along,onto,into,toward,towards,from"""
RELATIONS = sorted(map(_words, _RELATIONS.split(",")), key=len, reverse=True)
JOINTS = set(_words("and while but plus as then , . ; :"))
COPULAS = set(_words("is are was were be being"))
NO_VERBS = set(
    _words(
        """ring king building wing string painting ceiling morning evening spring swing clothing earring wedding
        lightning awning drawing thing something nothing everything anything sling sting pudding dumpling duckling
        sapling stocking railing"""
    )
)
PLURALS = set(_words("people men women children mice geese feet teeth sheep fish deer"))
_MEDIUM = re.compile(
    r"^\s*(?:an?\s+|the\s+)?(?:[\w-]+\s+){0,3}?(?:photo|photograph|picture|image|painting|drawing|illustration|render|"
    r"rendering|sketch|close-up|shot|view)\s+(?:of|showing)\s+",
    re.IGNORECASE,
)


@dataclass
class Thing:
    """A noun phrase. count: None where no number is said. article: "a", "an" or "" (a mass, or several)."""

    noun: str
    attributes: list[str] = field(default_factory=list)
    count: int | None = None
    plural: bool = False
    article: str = ""

    @property
    def be(self) -> str:
        return "are" if self.plural else "is"

    def there(self, words: str) -> str:
        article = "" if self.plural or not self.article else "an " if words[:1] in "aeiou" else "a "
        return f"{self.be.capitalize()} there {article}{words} in the image?"

    @property
    def name(self) -> str:
        return " ".join([*self.attributes, self.noun])


def questions_of(prompt: str) -> tuple[YesNo, ...]:
    """The questions about a prompt, parents before children; at least one."""
    words = re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*|[,.;:]", _MEDIUM.sub("", prompt).lower())
    things: list[Thing] = []
    relations: list[tuple[Thing, str, Thing | None]] = []
    before: Thing | None = None
    for clause in _clauses(words):
        read = list(_read(clause, before))
        before = read[0][0] if read else before
        for subject, relation, other in read:
            things += [t for t in (subject, other) if t is not None and all(t is not k for k in things)]
            if relation:
                relations.append((subject, relation, other))
    if len(words) < 2:
        return whole(prompt)
    return tuple(_asked(things, relations)) or whole(prompt)


def _asked(things: Sequence[Thing], relations: Sequence[tuple[Thing, str, Thing | None]]) -> list[YesNo]:
    found: list[YesNo] = []
    places: dict[str, int] = {}

    def ask(text: str, *parents: int) -> int:
        if text not in places:
            places[text] = len(found)
            found.append(YesNo(text, tuple(dict.fromkeys(parents))))
        return places[text]

    there = [ask(thing.there(thing.noun)) for thing in things]
    for thing, place in zip(things, there, strict=True):
        parents = [place]
        for attribute in thing.attributes:
            parents.append(ask(thing.there(f"{attribute} {thing.noun}"), place))
        if thing.count is not None:
            number = list(NUMBERS)[thing.count - 1] if thing.count <= len(NUMBERS) else str(thing.count)
            ask(f"{thing.be.capitalize()} there exactly {number} {thing.name} in the image?", *parents)
    place_of = {id(thing): place for thing, place in zip(things, there, strict=True)}
    for subject, relation, other in relations:
        parents = [place_of[id(t)] for t in (subject, other) if t is not None]
        behind = "" if other is None else f" the {other.name}"
        ask(f"{subject.be.capitalize()} the {subject.name} {relation}{behind}?", *parents)
    return found


def _clauses(words: Sequence[str]) -> Iterator[list[str]]:
    """The parts of a prompt between joints; "red and white" is no joint."""
    clause: list[str] = []
    for i, word in enumerate(words):
        if word in JOINTS:
            if clause and clause[-1] in ATTRIBUTES and i + 1 < len(words) and words[i + 1] in ATTRIBUTES:
                continue
            yield clause
            clause = []
        else:
            clause.append(word)
    yield clause


def _read(words: Sequence[str], before: Thing | None) -> Iterator[tuple[Thing, str, Thing | None]]:
    """(thing, relation, thing) of a clause, in order; a thing alone has no relation.

    before: the subject of the clause before, also of one that begins with a verb ("and holding an umbrella").
    """
    last = before if words and _is_verb(words[0]) else None
    relation, phrase, place = ("", list[str](), 0) if last is None else (words[0], [], 1)
    while place <= len(words):
        step = _relation_at(words, place, phrase) if place < len(words) else 0
        if place < len(words) and not step:
            if words[place] not in COPULAS:
                phrase.append(words[place])
            place += 1
            continue
        thing = _thing(phrase)
        if thing is not None:
            if last is None or not relation:
                yield thing, "", None
            else:
                yield last, relation, thing
            last, relation, phrase = thing, "", []
        if place == len(words):
            break
        relation = " ".join([relation, *words[place : place + step]]).strip()
        place += step
    if last is not None and relation.split()[:1] and relation.split()[0].endswith("ing"):
        yield last, relation, None


def _relation_at(words: Sequence[str], place: int, phrase: Sequence[str]) -> int:
    """How many words at a place are a relation; 0: none. phrase: the noun phrase before it."""
    for relation in RELATIONS:
        if list(words[place : place + len(relation)]) == relation:
            return len(relation)
    word, behind = words[place], words[place + 1 :]
    if _thing(phrase) is None:
        return 0
    if phrase[-1] in ATTRIBUTES and behind and behind[0] not in DETERMINERS and not _begins_relation(behind):
        return 0  # "a blue swimming pool"
    participle = word.endswith("ed") and len(word) > 4 and _begins_relation(behind)
    return int(_is_verb(word) or participle)


def _is_verb(word: str) -> bool:
    return word.endswith("ing") and len(word) > 4 and word not in NO_VERBS


def _begins_relation(words: Sequence[str]) -> bool:
    return any(list(words[: len(relation)]) == relation for relation in RELATIONS)


def _thing(words: Sequence[str]) -> Thing | None:
    """The noun phrase that some words are; None where they hold no noun."""
    rest, count, article = list(words), None, ""
    while rest and (rest[0] in DETERMINERS or rest[0] in NUMBERS or rest[0].isdecimal()):
        word = rest.pop(0)
        if word in NUMBERS or (word.isdecimal() and 0 < int(word[:6]) < 1000):
            count = NUMBERS.get(word) or int(word)
        if word in SINGULAR | DEFINITE:
            article = "a"
    attributes = []
    while len(rest) > 1 and rest[0] in ATTRIBUTES and rest[1] != "of":
        attributes.append(rest.pop(0))
    while len(rest) > 1 and rest[-1] in ATTRIBUTES:  # "the ball is red"
        attributes.append(rest.pop())
    if not rest or (len(rest) == 1 and rest[0] in ATTRIBUTES and not (article or count)):
        return None
    plural = count != 1 and (count is not None or _is_plural(rest))
    return Thing(" ".join(rest), attributes, count, plural, article)


def _is_plural(noun: Sequence[str]) -> bool:
    head = noun[noun.index("of") - 1] if "of" in noun[1:] else noun[-1]
    return head in PLURALS or (head.endswith("s") and not head.endswith(("ss", "us", "is")))
