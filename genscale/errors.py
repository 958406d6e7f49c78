"""Errors that users see. Their message is one sentence: what was asked, what was found, what to do."""

from __future__ import annotations

import difflib
from typing import Any


class UsageError(ValueError):
    """A request that cannot be carried out. The command line prints it and exits with code 2."""


Refusal = UsageError  # its name before 0.1.0


class VerifierError(UsageError):
    """A verifier failed, or returned something that is not a score."""


class BudgetExhausted(Exception):
    """Thrown into a sampler when the budget does not pay for a single row of its query.

    A sampler may catch it and yield a cheaper query; otherwise the search ends, with the candidates that it has.
    """


def did_you_mean(word: str, known: Any) -> str:
    """ " (did you mean 'clip'?)" with the nearest known word, or "" if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
