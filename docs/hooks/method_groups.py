"""The methods grouped by what they need, found from the samplers themselves: the nav and the index use it.

A sampler that computes gradients says so in `needs`, or by the default of its option `gradient`. One that needs no
verifier declares guidance branches or a mix. Of the others, those that score previews are told by their plan: it
scores more rows than it finishes candidates (the cost table of the method's page, which tests keep up to date).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PLAIN = "best_of_n"
GROUPS = {
    "Verifier only": "They score finished images and nothing else, so any verifier will do.",
    "Previews": "They score clean estimates during the run, and spend what is left where these are good. "
    "Previews must rank as the final images do: measure it with `genscale calibrate-steps`.",
    "Gradients": "They follow the gradient of the score. The verifier must be differentiable.",
    "No verifier": "They use the branches of guidance, or a mix of predictions. A verifier is optional: it picks the "
    "best of several.",
}
_PLANNED = re.compile(r"^\| none \| \d+ \| (?P<scored>\d+) \| (?P<finished>\d+) \|$", re.M)


def groups(pages: Path) -> dict[str, list[str]]:
    """The names of all registered samplers by group; the baseline first, then by name."""
    from genscale.plugins import registry

    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in sorted(registry.found("sampler"), key=lambda n: (n != PLAIN, n)):
        page = pages / f"{name}.md"
        found[group_of(registry.load("sampler", name), page.read_text() if page.is_file() else "")].append(
            name
        )
    return found


def group_of(cls: type[Any], page: str) -> str:
    """The group of a sampler. page: the text of its page, or "" where it has none."""
    needs = set(getattr(cls, "needs", ()))
    if needs & {"branches", "mix"}:
        return "No verifier"
    if any("gradient" in getattr(c, "needs", ()) for c in cls.__mro__) or _follows_gradient(cls):
        return "Gradients"
    planned = _PLANNED.search(page)
    if planned and int(planned["scored"]) > int(planned["finished"]):
        return "Previews"
    return "Verifier only"


def _follows_gradient(cls: type[Any]) -> bool:
    field = getattr(cls, "__dataclass_fields__", {}).get("gradient")
    return field is not None and field.default not in ("none", None)
