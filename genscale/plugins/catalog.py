"""Samplers and verifiers as records: what they do, cost and cite, and their options."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, asdict
from typing import Any

from genscale.errors import UsageError
from genscale.plugins import candidates, options, registry
from genscale.plugins.docstrings import explained
from genscale.plugins.verifier_facts import FACTS


def plugin_records(kind: str, name: str | None = None) -> list[dict[str, Any]]:
    """Records of all samplers or verifiers, or of the one named. If one cannot be loaded, `about` is the reason; a
    named one raises UsageError instead."""
    names = list(registry.found(kind)) if name is None else [name]
    return [_record(kind, n, strict=name is not None) for n in names]


def _record(kind: str, name: str, strict: bool) -> dict[str, Any]:
    try:
        cls = registry.load(kind, name)
        hints = options.field_types(cls)
    except UsageError as error:
        if strict:
            raise
        return {"name": name, "about": str(error), "options": {}}
    text = inspect.getdoc(cls) or ""
    record: dict[str, Any] = {
        "name": name,
        "about": _sentence(text),
        "options": {
            n: {
                "default": _default(f),
                "type": options.describe(hints[n]),
                "about": explained(cls, n),
            }
            for n, f in registry.options(cls).items()
            if not f.metadata.get("python_only")
        },
    }
    if kind == "verifier":
        record["differentiable"] = hasattr(cls, "score_tensor")
        record["judges"] = list(judged_by(cls))
        if name in FACTS and cls.__module__.startswith("genscale."):
            record |= asdict(FACTS[name])
    if kind == "sampler":
        record["candidates"] = candidates.described(cls)
        record["cost"] = _cost(text)
        record["paper"] = _paper(text + "\n" + (inspect.getdoc(inspect.getmodule(cls)) or ""))
        record["needs"] = sorted(getattr(cls, "needs", ()))
    return record


def judged_by(cls: Any) -> tuple[str, ...]:
    """The kinds of media that a verifier takes."""
    from genscale.media_items import IMAGE, VIDEO  # loads numpy, which the help does without

    said: tuple[str, ...] = tuple(getattr(cls, "judges", ()))
    return said or ((VIDEO,) if getattr(cls, "judges_videos", False) else (IMAGE, VIDEO))


def _sentence(doc: str) -> str:
    """The first sentence of a docstring, which may run over several lines."""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    match = re.match(r".+?(?<!et al)[.!?](?= [A-Z(]|$)", paragraph)
    return match[0] if match else paragraph


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        value = field.default
    elif field.default_factory is not MISSING:
        value = field.default_factory()
    else:
        return "required"
    return registry.plain(value)


def _cost(doc: str) -> str:
    match = re.search(r"Cost[^:\n]*: (.+?)(?=(?<!\.)[;.]\s|\.?\n\n|\Z)", doc, re.DOTALL)
    return "" if match is None else " ".join(match[1].split()).rstrip(".")


def _paper(doc: str) -> str:
    """The publication that a docstring cites: an arXiv number, else the first "Name et al. year"; "" if none."""
    if match := re.search(r"arXiv[:\s]+(\d{4}\.\d{4,5})", doc):
        return f"arXiv {match[1]}"
    match = re.search(r"[A-Z][\w-]+(?:, [A-Z][\w-]+)*(?: et al\.| & [A-Z][\w-]+)? (?:19|20)\d\d\b", doc)
    return "" if match is None else match[0]
