"""BibTeX of genscale and of the papers behind a sampler."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from genscale.errors import UsageError
from genscale.plugins import registry

_ENTRY = re.compile(r"^@\w+\{.*?^\}", re.MULTILINE | re.DOTALL)
_KEYWORDS = re.compile(r",\n  keywords = \{(.*?)\}")


def citation(sampler: Any = None) -> str:
    """BibTeX entries of genscale and of the papers that a sampler implements.

    sampler: a registered name ("smc"), a sampler object, or its class; None gives genscale's own entry alone.

    A sampler brings its entries in the class variable `bibtex`; those of the bundled samplers are in
    `samplers/references.bib`. UsageError: the name is unknown, or the sampler has no entry.
    """
    if sampler is None:
        return _genscale()
    cls = registry.load("sampler", sampler) if isinstance(sampler, str) else sampler
    cls = cls if isinstance(cls, type) else type(cls)
    papers = str(getattr(cls, "bibtex", "")).strip() or _bundled(_registered_name(cls))
    if not papers:
        raise UsageError(
            f"sampler '{cls.__name__}' names no paper: give its class a variable `bibtex` with BibTeX entries."
        )
    return f"{_genscale()}\n\n{papers}"


def _genscale() -> str:
    from genscale import __version__

    return (
        "@software{genscale,\n"
        "  title = {genscale: Inference-Time Scaling for Diffusion and Flow Models},\n"
        "  author = {{The genscale authors}},\n"
        "  year = {2026},\n"
        f"  version = {{{__version__}}}\n"
        "}"
    )


def _registered_name(cls: type[Any]) -> str:
    """The name under which a sampler class is registered; "" if it is not."""
    value = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, point in registry.found("sampler").items() if point.value == value), "")


def _bundled(name: str) -> str:
    """Entries of samplers/references.bib whose keywords name the sampler, without the keywords."""
    text = files("genscale.samplers").joinpath("references.bib").read_text(encoding="utf-8")
    found = [entry for entry in _ENTRY.findall(text) if name in _names(entry)]
    return "\n\n".join(_KEYWORDS.sub("", entry) for entry in found)


def _names(entry: str) -> list[str]:
    match = _KEYWORDS.search(entry)
    return [] if match is None else [name.strip() for name in match[1].split(",")]
