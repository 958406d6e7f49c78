"""Docstrings of this package, as mkdocstrings reads them.

They explain a name where it is due: "least: what it does. peek: what that does." griffe knows Google's sections, so an
explained name of the signature becomes a line of its `Args:` here; all other text stays as and where it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe


class Explained(griffe.Extension):
    """Puts explained parameters and fields into sections."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        names = [p.name for p in func.parameters if p.name not in ("self", "cls")]
        _rewrite(func.docstring, names)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        fields = [n for n, m in cls.members.items() if m.is_attribute and "property" not in m.labels]
        _rewrite(cls.docstring, fields)


def _rewrite(docstring: griffe.Docstring | None, names: list[str]) -> None:
    if docstring is not None and names:
        docstring.value = sectioned(docstring.value, names)


def sectioned(text: str, names: list[str]) -> str:
    """The text with what it says of `names` moved into an `Args:` section at its end."""
    kept, found = [], list[tuple[str, str]]()
    for paragraph in re.split(r"\n\s*\n", text):
        head, items = _items(paragraph, names)
        kept.append(head)
        found += items
    whole = "\n\n".join(part for part in kept if part.strip())
    if not found:
        return whole
    return whole + "\n\nArgs:\n" + "\n".join(f"    {name}: {said}" for name, said in found)


def _items(paragraph: str, names: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first explained name, and (name, text) of each."""
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    starts = list(re.finditer(rf"(?:^|(?<=\n)|(?<=[.;] ))[ \t]*((?:{name})(?:, (?:{name}))*):\s+", paragraph))
    if not starts:
        return paragraph, []
    ends = [*(m.start() for m in starts[1:]), len(paragraph)]
    return paragraph[: starts[0].start()], list(_said(paragraph, starts, ends))


def _said(paragraph: str, starts: list[re.Match[str]], ends: list[int]) -> Iterator[tuple[str, str]]:
    for start, end in zip(starts, ends, strict=True):
        text = " ".join(paragraph[start.end() : end].split())
        for one in start[1].split(", "):
            yield one, text
