"""Which class of a classifier a prompt names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from genscale.errors import UsageError, did_you_mean, quoted


def class_of(prompt: str, labels: Mapping[int, str]) -> int:
    """The index of the class that a prompt names.

    The prompt is an index, a label ("golden retriever", also one of several that commas divide, as in "tench, Tinca
    tinca"), or a text that has a label among its words, of which the longest counts ("a photo of a tree frog" is no
    frog). Case, underscores and hyphens make no difference. UsageError: it names none, or several equally long ones.
    """
    if prompt.strip().isdecimal():
        index = int(prompt)
        if index not in labels:
            raise UsageError(f"there is no class {index}: the classifier has those from 0 to {max(labels)}.")
        return index
    text = _plain(prompt)
    if whole := [index for index, label in labels.items() if text in (_plain(label), *_names(label))]:
        return _only(whole, prompt, labels)
    found = [
        (len(name), index)
        for index, label in labels.items()
        for name in {_plain(label), *_names(label)}
        if name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    ]
    if not found:
        near = did_you_mean(prompt, [name for label in labels.values() for name in _names(label)])
        raise UsageError(
            f"the prompt {quoted(prompt)} names no class of the classifier{near}: give a label or its index."
        )
    return _only(sorted({index for length, index in found if length == max(found)[0]}), prompt, labels)


def _only(places: Sequence[int], prompt: str, labels: Mapping[int, str]) -> int:
    if len(places) > 1:
        raise UsageError(
            f"the prompt {quoted(prompt)} names several classes, {quoted(labels[places[0]])} and "
            f"{quoted(labels[places[1]])} ({places[0]} and {places[1]}): give the index of one."
        )
    return places[0]


def _names(label: str) -> list[str]:
    return [plain for name in label.split(",") if (plain := _plain(name))]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_-]", " ", text).casefold().split())
