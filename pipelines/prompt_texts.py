"""The texts that verifiers get: those of the prompts, or those given as `texts=` beside embeddings of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from genscale.engine.verifier_roles import Roles, WeightedVerifier
from genscale.errors import UsageError, quoted

TEXTS = "texts"


def checked_texts(texts: Any, given: Mapping[str, Any]) -> list[str] | None:
    """The texts given at a call; None where there are none. given: the arguments of the pipeline."""
    if texts is None:
        return None
    if given.get("prompt") is not None:
        raise UsageError(
            "texts= goes with embeddings of prompts, and prompt= says the text already: leave one out."
        )
    found: list[Any] = (
        [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, list | tuple) else [None]
    )
    if not found or not all(isinstance(text, str) for text in found):
        raise UsageError(
            f"texts= must be a text, or a list with one for each prompt, not {quoted(repr(texts))}."
        )
    return found


def row_texts(texts: list[str] | None, given: Mapping[str, Any], rows: int) -> list[str]:
    """One text for each of the rows that the call makes; empty where it has neither prompts nor texts."""
    prompt = given.get("prompt")
    found = texts or ([prompt] if isinstance(prompt, str) else list(prompt or [""]))
    if len(found) not in (1, rows):
        name = "prompts" if texts is None else f"{TEXTS}="
        raise UsageError(f"{len(found)} {name} made {rows} rows of latents: they cannot be matched.")
    return found * rows if len(found) == 1 else found


def check_texts(texts: list[str] | None, given: Mapping[str, Any], roles: Roles) -> None:
    """UsageError where a verifier would score images against a text that it is not told."""
    if texts is not None or given.get("prompt") is not None:
        return
    embeddings = [name for name, value in given.items() if value is not None and _is_embedding(name)]
    for member in _members(roles):
        reads = getattr(member.verifier, "reads_prompts", None)
        if embeddings and reads is not False:
            raise UsageError(
                f"the verifier '{member.name}' is told no text, since this call gives {embeddings[0]} without prompt: "
                "give texts='what it shows' as well, or a verifier with reads_prompts = False."
            )
        if reads:
            raise UsageError(
                f"the verifier '{member.name}' reads the prompt, and this call has none: give texts='what it shows'."
            )


def _is_embedding(name: str) -> bool:
    return "prompt" in name and "embed" in name and not name.startswith("negative")


def _members(roles: Roles) -> Iterator[WeightedVerifier]:
    for role in roles.all:
        yield from role.members
