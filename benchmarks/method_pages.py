"""What is computed on the pages of docs/methods/: tables of options, examples of cost, what was measured, the index.

A page is written by hand but for the parts between `<!-- begin: NAME -->` and `<!-- end: NAME -->`, which this fills
from the samplers' dataclasses and docstrings, from plans on the bundled toy flow model, and from benchmarks/results/.
tests/test_method_pages.py holds that the pages are what it would write.

    python -m benchmarks.method_figures && python -m benchmarks.method_pages
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import genscale
from benchmarks.method_tables import gains, index, measured
from genscale.plugins import registry
from genscale.plugins.docstrings import explained

PAGES = Path(__file__).parents[1] / "docs" / "methods"
CALL = {"num_inference_steps": 8, "guidance_scale": 3.0}
BUDGET = 320
SETTINGS: dict[str, dict[str, Any]] = {  # what a sampler cannot do without
    "fkc": {"guide": "cfg(1.4)"},
    "accept_reject": {"accept": 0.9, "reject": (0.8,), "checks": (0.5,)},
}


def main() -> None:
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(filled(path))


def filled(path: Path) -> str:
    """A page with its computed parts as they should be."""
    text = path.read_text()
    for name, make in PARTS.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        if begin in text:
            head, rest = text.split(begin, 1)
            text = head + begin + "\n" + make(path.stem) + "\n\n" + end + rest.split(end, 1)[1]
    return text


# ---------------------------------------------------------------- options


def options(name: str) -> str:
    """Every field with its default and what the docstrings say of it; bold: set by the preset, not by its core."""
    cls = registry.load("sampler", name)
    own = _changed(cls)
    lines = ["| option | default | what it is, and where the default comes from |", "|---|---|---|"]
    for option, field in registry.options(cls).items():
        default = f"`{written(field)}`"
        told = explained(cls, option) + (" (in Python only)" if field.metadata.get("python_only") else "")
        bold = "**" if option in own else ""
        lines.append(f"| `{option}` | {bold}{default}{bold} | {_cell(told)} |")
    if own:
        lines += [
            "",
            "Defaults in bold are this method's own; the others are those of the core that it shares.",
        ]
    return "\n".join(lines)


def _changed(cls: type[Any]) -> set[str]:
    """Fields that a preset of a core sets anew or adds."""
    cores = [c for c in cls.__mro__[1:] if is_dataclass(c)]
    if not cores:
        return set()
    core = {f.name: _default(f) for f in fields(cores[-1])}
    return {n for n, f in registry.options(cls).items() if n not in core or core[n] != _default(f)}


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def written(field: Field[Any]) -> str:
    """A default as one would write it on the command line."""
    value = _default(field)
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "()"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value) or '""'


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


# ---------------------------------------------------------------- cost


@cache
def pipe() -> Any:
    return genscale.load_pipeline("shapes-flow")


def cost(name: str) -> str:
    """Plans on the bundled toy flow model, with one verifier."""
    lines = [
        "| budget | NFE | scored rows: decodes and verifier calls | finished candidates |", "|---|---|---|---|",
    ]  # fmt: skip
    known = True
    for label, budget in (("none", None), (f"`{BUDGET}nfe`", f"{BUDGET}nfe")):
        made = plan(name, budget)
        known &= budget is not None or made.cost is not None
        lines.append(f"| {label} | {made.nfe} | {made.verifier_calls} | {made.candidates} |")
    steps, scale = CALL["num_inference_steps"], CALL["guidance_scale"]
    each = plan("best_of_n", None).nfe_per_candidate
    if name == "fkc":
        scale = 1.4
    head = (
        f"By `genscale plan` on `shapes-flow` at {steps} steps with guidance {scale:g}, where one candidate is "
        f"`f` = {each} NFE, one verifier:"
    )
    foot = (
        ""
        if known
        else "\n\nHere the scores decide what is spent: this is the plan if all of them are equal."
    )
    return head + "\n\n" + "\n".join(lines) + foot


@cache
def plan(name: str, budget: str | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = genscale.scale(pipe(), name, "shapes_clip", budget=budget, **SETTINGS.get(name, {}))
        return search.plan("a red star", **CALL)


PARTS: dict[str, Callable[[str], str]] = {
    "options": options,
    "cost": cost,
    "measured": measured,
    "index": lambda _: index(PAGES),
    "gains": lambda _: gains(PAGES),
}

if __name__ == "__main__":
    main()
