"""Commands, flags and files in running text, held against the program and the repository."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from genscale.plugins import registry
from tests.doc_blocks import ROOT

ROOMS = "benchmarks|docs|examples|genscale|notebooks|pipelines|samplers|tests|training|verifiers"
ROOT_FLAGS = {"--help", "--version", "--install-completion", "--show-completion"}


@cache
def program() -> dict[str, Any]:
    """The commands by name."""
    import typer.main

    from genscale.cli.app import app

    return dict(typer.main.get_command(app).commands)


def flags(parameters: Iterable[Any]) -> set[str]:
    """The long ones."""
    return {flag for p in parameters for flag in (*p.opts, *p.secondary_opts) if flag.startswith("--")}


@cache
def sampler_flags() -> set[str]:
    fields = (registry.options(registry.load("sampler", name)) for name in registry.found("sampler"))
    return {"--" + field.replace("_", "-") for some in fields for field in some}


@cache
def script_flags() -> set[str]:
    """Of benchmarks and training."""
    sources = (p.read_text() for folder in ("benchmarks", "training") for p in (ROOT / folder).glob("*.py"))
    return {flag for source in sources for flag in re.findall(r'add_argument\(\s*"(--[\w-]+)"', source)}


def wrong(span: str) -> list[str]:
    """What a piece of inline code says that is not there. Words in capitals stand for others."""
    words = span.split()
    if re.match(rf"(?:{ROOMS})/[\w*]", words[0]):
        return [] if any(ROOT.glob(words[0].rstrip(".,"))) else [words[0]]
    asked = [flag for word in words if re.fullmatch(r"--[a-z][\w-]+", flag := word.partition("=")[0])]
    if words[0] != "genscale":
        if not words[0].startswith("--"):
            return []
        known = ROOT_FLAGS | sampler_flags() | script_flags()
        return [
            flag for flag in asked if flag not in known.union(*(flags(c.params) for c in program().values()))
        ]
    here = program()
    named = words[1] if len(words) > 1 and not words[1].startswith("-") else None
    if named is None or not re.fullmatch(r"[a-z-]+", named):  # COMMAND stands for any
        return [flag for flag in asked if flag not in ROOT_FLAGS]
    if named not in here:
        return [named]
    own = flags(here[named].params) | ROOT_FLAGS
    if here[named].context_settings.get("ignore_unknown_options"):
        own |= sampler_flags()
    return [flag for flag in asked if flag not in own]
