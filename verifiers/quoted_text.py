"""The texts that a prompt puts in quotation marks: what a picture of it should spell."""

from __future__ import annotations

import re
import unicodedata

PAIRS = {  # an opening mark and the marks that close it
    '"': '"',
    "'": "'",
    "“": "”",
    "”": "”",  # Swedish and Finnish
    "„": "“”",  # German, and Polish
    "«": "»",
    "»": "«»",  # German in books, and Finnish
    "‘": "’",
    "‚": "‘’",
    "‹": "›",
    "›": "‹",
    "「": "」",
    "『": "』",
    "＂": "＂",
}
"""Quotation marks of the usual kinds. Those of APOSTROPHES may also be part of a word."""

APOSTROPHES = "'’‘"


def quoted_texts(prompt: str) -> list[str]:
    """What stands in quotation marks, in order and without them; of quotes in quotes the outer ones.

    A mark opens at the start of a word and closes at the end of one, so the apostrophes of "don't" and "the dogs'" do
    neither. Quotes of spaces alone are left out.
    """
    found, start = [], 0
    while start < len(prompt):
        end = _end(prompt, start) if prompt[start] in PAIRS else None
        if end is None:
            start += 1
            continue
        if text := prompt[start + 1 : end].strip():
            found.append(text)
        start = end + 1
    return found


def _end(prompt: str, start: int) -> int | None:
    """Where the quote that opens at `start` ends; None if it is no quote."""
    mark, before, after = prompt[start], prompt[:start][-1:], prompt[start + 1 :][:1]
    if mark in APOSTROPHES and (_in_word(before) or not after or after.isspace()):
        return None
    if mark == '"' and before.isdigit():  # inches
        return None
    for place in range(start + 1, len(prompt)):
        if prompt[place] in PAIRS[mark] and not _within_word(prompt, place):
            return place
    return None


def _within_word(prompt: str, place: int) -> bool:
    """Whether the apostrophe at `place` cannot close a quote, since its word goes on or it begins one."""
    if prompt[place] not in APOSTROPHES:
        return False
    return _in_word(prompt[place + 1 :][:1]) or prompt[place - 1].isspace()


def _in_word(letter: str) -> bool:
    """Whether a character joins an apostrophe to its word. Letters without case, as Chinese, need no space between."""
    return letter.isalnum() and unicodedata.category(letter) != "Lo"


def comparable(text: str, case_sensitive: bool = False) -> str:
    """A text as it is compared: compatibility characters and quotation marks unified (NFKC), and no white space."""
    plain = re.sub(r"\s+", "", unicodedata.normalize("NFKC", text))
    plain = re.sub("[‘’‚‹›]", "'", re.sub("[“”„«»]", '"', plain))
    return plain if case_sensitive else plain.casefold()
