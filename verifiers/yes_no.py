"""P(yes) of a question that is to be answered by yes or no, from an answer's text or its tokens' probabilities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

ANSWER = "Please answer yes or no."
YES, NO = "yes", "no"


def with_probabilities(text: str, top: Mapping[str, float]) -> str:
    """An answer's text with the log-probabilities of its first token's alternatives, as one text."""
    return json.dumps({"text": text, "top": dict(top)})


def read_yes(answer: str) -> float:
    """P(yes) / (P(yes) + P(no)) over all spellings of the two words, in [0, 1]; 1 or 0 by the text where there are no
    probabilities of tokens. ValueError: it is neither yes nor no."""
    text, top = _parts(answer)
    weight = {
        word: sum(math.exp(v) for token, v in top.items() if _word(token) == word) for word in (YES, NO)
    }
    total = sum(weight.values())
    if total > 0:
        return weight[YES] / total
    first = _word(text.split()[0]) if text.split() else ""
    if first not in (YES, NO):
        raise ValueError("it is neither yes nor no")
    return float(first == YES)


def _parts(answer: str) -> tuple[str, dict[str, float]]:
    try:
        found: Any = json.loads(answer)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("top"), dict):
        return answer, {}
    top = {k: float(v) for k, v in found["top"].items() if isinstance(v, int | float) and v <= 1e-6}
    return str(found.get("text", "")), top


def _word(token: str) -> str:
    return token.strip(" \n\t\u0120\u2581.,!*\"'`").lower()
