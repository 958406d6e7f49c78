"""The singular of English nouns: regular endings, and a table of what is not regular."""

from __future__ import annotations

_ODD = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
    "teeth": "tooth", "feet": "foot", "oxen": "ox", "knives": "knife", "wolves": "wolf", "leaves": "leaf",
    "loaves": "loaf", "shelves": "shelf", "scarves": "scarf", "calves": "calf", "halves": "half", "buses": "bus",
    "cactuses": "cactus", "cacti": "cactus", "octopuses": "octopus", "lenses": "lens", "irises": "iris",
    "scissorses": "scissors", "skises": "skis", "shoes": "shoe", "toes": "toe", "canoes": "canoe", "cookies": "cookie",
    "movies": "movie", "brownies": "brownie", "zombies": "zombie", "hoodies": "hoodie", "selfies": "selfie",
    "aches": "ache", "headaches": "headache", "caches": "cache", "axes": "axe",
}  # fmt: skip
_BOTH = (
    "sheep",
    "deer",
    "fish",
    "aircraft",
    "scissors",
    "skis",
    "pants",
    "jeans",
    "shorts",
    "series",
    "species",
)
"""Words that are their own singular, or have none."""


def singular(word: str) -> str:
    """The singular of a plural in lower case; a word that does not look like a plural stays as it is."""
    if word in _ODD:
        return _ODD[word]
    if word in _BOTH or not word.endswith("s") or word.endswith("ss") or len(word) < 3:
        return word
    head = next((odd for odd in _ODD if word.endswith(odd) and word[: -len(odd)].endswith("-")), None)
    if head is not None:  # fire-men
        return word[: -len(head)] + _ODD[head]
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "zzes", "ches", "shes", "oes")):
        return word[:-2]
    return word[:-1]
