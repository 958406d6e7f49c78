"""What can go wrong, as the user sees it: one sentence with what was asked, what was found, what to do."""

from __future__ import annotations

import difflib
from typing import Any


class UsageError(ValueError):
    """A request that cannot be carried out. The command line prints it and exits with code 2."""


Refusal = UsageError  # its name before 0.1.0


class VerifierError(UsageError):
    """A verifier failed or gave something that is not a score. Nothing is chosen on such a score."""


class BudgetExhausted(Exception):
    """Thrown into a sampler when not even one row of what it asked for can be afforded.

    A sampler may catch it to ask for something cheaper; by default the search just ends.
    """


def did_you_mean(word: str, known: Any) -> str:
    """A question after the nearest known word, as in "... (did you mean 'clip'?)", or nothing.

    Leading dashes, case, and - or _ make no difference; a beginning of three letters or more is near enough.
    """
    names = {_plain(name): str(name) for name in reversed(list(known))}
    typed = _plain(word)
    close = difflib.get_close_matches(typed, names, n=1)
    close = close or [name for name in sorted(names) if len(typed) > 2 and name.startswith(typed)]
    return f" (did you mean '{names[close[0]]}'?)" if close else ""


def _plain(word: Any) -> str:
    return str(word).lstrip("-").replace("_", "-").lower()
