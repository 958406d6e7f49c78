"""Reads what docstrings of samplers and verifiers say about each option, for listings, the demo and the docs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from genscale.plugins import registry


def explained(cls: type[Any], option: str) -> str:
    """Sentences: those of the cores that a preset is made of first, then its own. Empty where nothing is said."""
    docs = [inspect.cleandoc(c.__doc__ or "") for c in reversed(cls.__mro__) if is_dataclass(c)]
    names = list(registry.options(cls))
    return " ".join(_sentence(text) for doc in docs if (text := told(doc, option, names)))


def told(doc: str, option: str, names: Sequence[str]) -> str:
    """The text after `option:` up to the next of the names or the paragraph's end, wherever its lines break.

    Where several options are explained together (`low, high: bounds`), the list stands before the text.
    """
    known = "(?:" + "|".join(map(re.escape, names)) + ")"
    start = rf"(?:^|(?<= ))((?:{known}, )*{re.escape(option)}(?:, {known})*: )"
    stop = rf"(?=[.;]? {known}(?:, {known})*: |[.;] (?!None)[A-Z]\w+(?: [a-z]+)*: |$)"
    for paragraph in re.split(r"\n\s*\n", doc):
        if match := re.search(start + r"(.+?)" + stop, " ".join(paragraph.split())):
            return (match[1] if "," in match[1] else "") + match[2].strip()
    return ""


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a name or a number, and a full stop."""
    first = text.split()[0]
    begun = text[0].upper() + text[1:] if first.isalpha() and first != "inf" else text
    begun = begun.rstrip(";")
    return begun if begun.endswith((".", "!", "?")) else begun + "."
