"""Extracts the description of each option from docstrings of samplers and verifiers, for listings, demo and docs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from genscale.plugins import registry


def explained(cls: type[Any], option: str) -> str:
    """The description of an option, as sentences: those of the base classes first, then those of the class itself.
    Empty if there are none."""
    docs = [inspect.cleandoc(c.__doc__ or "") for c in reversed(cls.__mro__) if is_dataclass(c)]
    names = list(registry.options(cls))
    return " ".join(_sentence(text) for doc in docs if (text := told(doc, option, names)))


def told(doc: str, option: str, names: Sequence[str]) -> str:
    """The text after `option:` up to the next of the names or the end of the paragraph; line breaks do not matter.

    If several options are explained together (`low, high: bounds`), the text begins with their list.
    """
    known = "(?:" + "|".join(map(re.escape, names)) + ")"
    start = rf"(?:^|(?<= ))((?:{known}, )*{re.escape(option)}(?:, {known})*: )"
    stop = rf"(?=[.;]? {known}(?:, {known})*: |[.;] (?!None)[A-Z]\w+(?: [a-z]+)*: |$)"
    for paragraph in re.split(r"\n\s*\n", doc):
        if match := re.search(start + r"(.+?)" + stop, " ".join(paragraph.split())):
            return (match[1] if "," in match[1] else "") + match[2].strip()
    return ""


def _sentence(text: str) -> str:
    """The text with a full stop, and with a capital letter unless it begins with an identifier or a number."""
    first = text.split()[0]
    begun = text[0].upper() + text[1:] if first.isalpha() and first != "inf" else text
    begun = begun.rstrip(";")
    return begun if begun.endswith((".", "!", "?")) else begun + "."
