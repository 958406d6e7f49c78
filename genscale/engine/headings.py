"""The heading of an archive says which run it is of: whether two runs are the same, so that one can go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genscale.errors import UsageError, quoted
from genscale.storage.identity import DIGEST

STATE = "state"  # kind of the record that says what a run has changed of its own identity


def refuse_another(
    folder: Path | None, records: Sequence[Mapping[str, Any]], heading: Mapping[str, Any]
) -> None:
    """UsageError if the folder that has these records holds another run."""
    later = [record["identity"] for record in records[1:] if record["kind"] == STATE]
    differing = first_difference(records[0], heading, later)
    if differing is not None:
        raise UsageError(
            f"'{folder}' holds another run ({differing}): choose an empty folder, or repeat that run's options."
        )


def first_difference(
    earlier: Mapping[str, Any], heading: Mapping[str, Any], later: Sequence[Mapping[str, str]] = ()
) -> str | None:
    """In words, what differs between the headings of two runs, so that neither can go on with the other's work.

    Limits may differ: with another budget or batch size the candidates stay the same. later: what became of the
    identity of the first run while it ran, for example of a verifier that counts its calls.
    """
    for name, value in heading.items():
        before = earlier.get(name)
        if name in ("limits", "identity") or before == value:
            continue
        return f"its {name} is {_said(before)}, not {_said(value)}"
    mine, theirs = heading.get("identity", {}), earlier.get("identity")
    if mine and theirs is None:
        return "an early version of genscale began it, and did not write down what its call was given"
    for name in [*mine, *(n for n in theirs or {} if n not in mine)]:
        before, value = (theirs or {}).get(name, "not given"), mine.get(name, "not given")
        if before != value and value not in [state.get(name) for state in later]:
            hidden = before.startswith(DIGEST) or value.startswith(DIGEST)
            return f"not the same {name}" if hidden else f"its {name} is {before}, not {value}"
    return None


def _said(value: Any) -> str:
    plain = isinstance(value, int | float) or value is None
    return repr(value) if plain else quoted(value)
