"""Errors that users see. Their message is one sentence: what was asked, what was found, what to do."""

from __future__ import annotations

import difflib
from typing import Any


class UsageError(ValueError):
    """A request that cannot be carried out. The command line prints it and exits with code 2."""


Refusal = UsageError  # its name before 0.1.0


class NoLoop(UsageError):
    """A pipeline has no denoising loop that a search could own; it may still be called as a whole."""


class VerifierError(UsageError):
    """A verifier failed, or returned something that is not a score."""


class AllCandidatesFailed(UsageError):
    """Every candidate of a prompt was dropped, because some of its numbers were not finite.

    result: the SearchResult with what the other prompts found; None if no prompt found anything.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class BudgetExhausted(Exception):
    """Thrown into a sampler when the budget does not pay for a single row of its query.

    A sampler may catch it and yield a cheaper query; otherwise the search ends, with the candidates that it has.
    """


def quoted(text: object, most: int = 60) -> str:
    """A text in single quotes for a message: on one line, cut to `most` characters, control characters escaped."""
    line = " ".join(str(text)[: 4 * most].split())
    cut = len(line) > most or len(str(text)) > 4 * most
    line = line[: most - 3].rstrip() + "..." if cut else line
    return "'" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) + "'"


def did_you_mean(word: str, known: Any) -> str:
    """A question after the nearest known word, as in "... (did you mean 'clip'?)", or an empty text if none is near.

    Leading dashes, case, and - or _ make no difference; a beginning of three letters or more is near enough.
    """
    names = {_plain(name): str(name) for name in reversed(list(known))}
    typed = _plain(word)
    close = difflib.get_close_matches(typed, names, n=1)
    close = close or [name for name in sorted(names) if len(typed) > 2 and name.startswith(typed)]
    return f" (did you mean {quoted(names[close[0]])}?)" if close else ""


def _plain(word: Any) -> str:
    return str(word).lstrip("-").replace("_", "-").lower()
