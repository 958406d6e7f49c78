"""The category of a prompt, from its words, and the weights of verifiers for that category.

Kasaei et al. 2025, CARINOX (arXiv 2509.17458) weight rewards by their agreement with human ratings for each category of
T2I-CompBench++. The weights here are those of the published code (assets/weights.json, mean 1 in a row), although that
code never reads them. Its categories come from a table of the benchmark's prompts, and ours from the words of a prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from genscale.errors import UsageError, did_you_mean
from genscale.plugins.limits import shown

REWARDS = ("hps", "image_reward", "da_score", "vqa_score")
TRUST: dict[str, tuple[float, float, float, float]] = {
    "color": (0.40, 1.06, 1.41, 1.14),
    "shape": (0.95, 1.12, 1.00, 0.92),
    "texture": (0.90, 1.10, 1.07, 0.93),
    "2d_spatial": (1.06, 1.02, 0.82, 1.10),
    "non_spatial": (1.01, 0.96, 0.85, 1.17),
    "complex": (0.67, 1.05, 1.21, 1.06),
    "3d_spatial": (0.96, 0.92, 0.68, 1.43),
    "numeracy": (1.02, 1.05, 1.00, 0.93),
    "overall": (0.59, 0.94, 1.12, 1.34),
}
WORDS: dict[str, str] = {
    "color": "red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|gr[ae]y|golden|silver|beige|cyan"
    "|magenta|turquoise|teal|maroon|colou?rful|[a-z]+-colou?red",
    "shape": "round|circular|oval|square|rectangular|triangular|spherical|cubic|cubical|conical|cylindrical|pyramidal"
    "|pentagonal|hexagonal|octagonal|oblong|curved|pointed|diamond-shaped|[a-z]+-shaped|tall|short|long|big|small",
    "texture": "wooden|metal|metallic|glass|leather|rubber|plastic|fabric|fluffy|furry|woolen|velvet|silk|denim|stone"
    "|marble|ceramic|smooth|rough|glossy|shiny",
    "3d_spatial": "in front of|behind|hidden by|(?:in|to) the (?:background|foreground)",
    "2d_spatial": "(?:to |on |at )?the (?:left|right|top|bottom)(?: side)? of|left of|right of|above|below|beneath"
    "|under|underneath|over|on top of|next to|near|beside|on side of",
    "numeracy": "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|a dozen|[2-9]|1[0-9]|20",
    "non_spatial": "wearing|holding|riding|eating|drinking|watching|looking at|talking to|speaking (?:to|with)"
    "|playing(?: with)?|walking(?: with)?|chasing|carrying|hugging|feeding|pointing at|reading|cooking|driving",
}
_FINDERS = {name: re.compile(rf"(?<![\w-])(?:{words})(?![\w-])") for name, words in WORDS.items()}
_KNOWN = {  # alternative names of verifiers, without punctuation
    "hps": 0, "hpsv2": 0, "hpsv21": 0, "imagereward": 1, "dascore": 2, "questionlist": 2, "blipvqa": 2, "vqascore": 3,
    "vqa": 3,
}  # fmt: skip


def category(prompt: str) -> str:
    """The category whose words occur in the prompt; "complex" if several do, "overall" if none does."""
    text = prompt.lower()
    found = [name for name, finder in _FINDERS.items() if finder.search(text)]
    return found[0] if len(found) == 1 else "complex" if found else "overall"


def trust(prompt: str, verifiers: Sequence[str]) -> list[float]:
    """The weight of each verifier for this prompt, looked up by its name without options; 1 if it is not in the
    table."""
    row = TRUST[category(prompt)]
    places = [_KNOWN.get(re.sub(r"\W|_", "", name.split("(")[0].lower())) for name in verifiers]
    return [1.0 if place is None else row[place] for place in places]


# ---------------------------------------------------------------- weights of the ensemble "category"

FURTHER: dict[str, str] = {
    "text": r"[\"“][^\"”]+[\"”]|(?<![\w'])'[^']{2,}'(?!\w)|\b(?:the words?|the letters?|lettering|captioned"
    r"|that (?:says|reads)|written|spelling|spells)\b",
    "style": r"\b(?:in the style of|style|watercolou?r|oil painting|painting|sketch|drawing|cartoon|anime|pixel art"
    r"|photograph|photorealistic|3d render|low poly|impressionist|cubist|engraving|woodcut|line art|art nouveau)\b",
}
"""Kinds of prompts beside those of T2I-CompBench++, which has none of them (words are ours)."""
_FURTHER = {name: re.compile(words) for name, words in FURTHER.items()}
ALIASES = {
    "colour": "color", "counting": "numeracy", "position": "2d_spatial", "depth": "3d_spatial",
    "action": "non_spatial", "several": "complex", "other": "overall",
}  # fmt: skip
CATEGORIES = (*TRUST, *FURTHER)

ByCategory = Mapping[str, Mapping[str, float]]
"""Weights of verifiers by name, by category."""


def categories(prompt: str) -> tuple[str, ...]:
    """All categories whose words occur in the prompt, those of T2I-CompBench++ and "text" and "style"; may be empty."""
    text = prompt.lower()
    return tuple(name for name, finder in (_FINDERS | _FURTHER).items() if finder.search(text))


def category_weights(prompt: str, verifiers: Sequence[str], given: ByCategory) -> list[float]:
    """The weight of each verifier for this prompt.

    given: weights by category, as of `checked`. Of a prompt of several categories the weights under "complex" count,
    else the mean of what its categories say; of a prompt of none those under "overall". A verifier that none of these
    names has its weight of CARINOX (`trust`), which is 1 of those that are not in its table.
    """
    found = categories(prompt)
    rows = [given.get(name, {}) for name in found]
    first = [given["complex"]] if len(found) > 1 and "complex" in given else []
    last = given.get("overall", {})
    weights = []
    for name, usual in zip(verifiers, trust(prompt, verifiers), strict=True):
        said = next(([row[name]] for row in first if name in row), [row[name] for row in rows if name in row])
        weights.append(sum(said) / len(said) if said else last.get(name, usual))
    return weights


def checked(given: Any, verifiers: Sequence[str] | None = None) -> ByCategory:
    """Weights by category under the names of the table. verifiers: None: any. UsageError: an unknown category or
    verifier, or no number."""
    if not isinstance(given, Mapping):
        raise UsageError(
            f"category weights {shown(given)} are no table: give {{category: {{verifier: weight}}}}."
        )
    found: dict[str, dict[str, float]] = {}
    for name, row in given.items():
        known = ALIASES.get(name, name)
        if known not in CATEGORIES:
            hint = did_you_mean(str(name), [*CATEGORIES, *ALIASES])
            raise UsageError(f"category '{name}' is unknown{hint}: give one of {', '.join(CATEGORIES)}.")
        if not isinstance(row, Mapping):
            raise UsageError(f"category '{name}' holds {shown(row)}: give {{verifier: weight}}.")
        for verifier, weight in row.items():
            if verifiers is not None and verifier not in verifiers:
                raise UsageError(
                    f"category '{name}' weights verifier '{verifier}', which the search does not have: name one of "
                    f"{', '.join(verifiers)}."
                )
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise UsageError(
                    f"category '{name}' gives '{verifier}' weight {shown(weight)}: give a finite number."
                )
        found.setdefault(known, {}).update({v: float(w) for v, w in row.items()})
    return found
