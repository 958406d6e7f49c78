"""Tokenizers of a search's own: fast ones keep padding and truncation between calls, so threads cannot share one."""

from __future__ import annotations

import copy
from typing import Any


def own_tokenizers(components: dict[str, Any], made: dict[int, Any]) -> dict[str, Any]:
    """Copies of the fast tokenizers among the components, and of processors that hold one, by name.

    made: the copies of earlier calls of the same search, by the id of what they are copies of.
    """
    found = {}
    for name, component in components.items():
        inner = component if _is_fast(component) else getattr(component, "tokenizer", None)
        if not _is_fast(inner):
            continue
        if id(component) not in made:
            made[id(component)] = _copied(component)
        found[name] = made[id(component)]
    return found


def _is_fast(value: Any) -> bool:
    return hasattr(value, "backend_tokenizer") and "_tokenizer" in vars(value)


def _copied(component: Any) -> Any:
    made = copy.copy(component)
    if _is_fast(component):
        vars(made)["_tokenizer"] = copy.deepcopy(component._tokenizer)
    else:
        vars(made)["tokenizer"] = _copied(component.tokenizer)
    return made
