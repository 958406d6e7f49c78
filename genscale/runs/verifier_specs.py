"""Verifiers as they are written on the command line.

clip                                   a registered verifier
clip:2                                 with weight 2
"clip(model=ViT-L-14,device=cpu):2"    with options of its own
package.module:judge                   any callable that can be imported, also from the working folder
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.plugins import options as sampler_options
from genscale.plugins import registry

_FORM = re.compile(
    r"(?P<name>[\w.\-]+(?::[A-Za-z_][\w.]*)?)(?:\((?P<options>.*)\))?(?::(?P<weight>[-+.\deE]+))?"
)


def jury(specs: Sequence[str]) -> list[tuple[Any, float]]:
    """(verifier, weight) of each; names and options are checked, a plain name is left to `scale`."""
    return [_member(spec) for spec in specs]


def boxed(members: Sequence[tuple[Any, float]], file: str, prompts: Sequence[str]) -> list[tuple[Any, float]]:
    """The same, looking at the regions of a boxes file, too; each by the texts of these prompts."""
    cls = registry.load("verifier", "boxes")
    boxes = cls.read(Path(file), prompts)
    return [(cls(made(v) if isinstance(v, str) else v, boxes), weight) for v, weight in members]


def lifted(members: Sequence[tuple[Any, float]], k: int) -> list[tuple[Any, float]]:
    """The same for videos: those that know images only (no `judges_videos`) see k frames and give the mean."""
    frames = registry.load("verifier", "frames")

    def lift(verifier: Any) -> Any:
        cls = registry.load("verifier", verifier) if isinstance(verifier, str) else verifier
        if getattr(cls, "judges_videos", getattr(cls, "judges_clips", False)):
            return verifier
        return Named(verifier if isinstance(verifier, str) else verifier.name, frames(verifier, k=k))

    return [(lift(verifier), weight) for verifier, weight in members]


def made(name: str) -> Named:
    """A registered verifier with its defaults."""
    return Named(name, registry.make("verifier", name, {}))


def foreign(specs: Sequence[str]) -> list[str]:
    """Those that would import code by its module's name."""
    return [s for s in specs if ":" in _parts(s)[0]]


def unweighted(spec: str) -> str:
    """The verifier without its weight."""
    name, options, _ = _parts(spec)
    return name if options is None else f"{name}({options})"


def weights(specs: Sequence[str]) -> dict[str, float]:
    """The weight of each, by the name that its scores are filed under; nothing is imported."""
    return {unweighted(spec): _parts(spec)[2] for spec in specs}


def _parts(spec: str) -> tuple[str, str | None, float]:
    match = _FORM.fullmatch(spec.strip())
    try:
        weight = float(match["weight"] or 1) if match else 1.0
    except ValueError:
        match = None
    if match is None:
        raise UsageError(
            f"verifier '{spec}' cannot be read: write name, name:weight or package.module:callable."
        )
    return match["name"], match["options"], weight


@dataclass(frozen=True)
class Named:
    """A verifier under the name that it was asked for by; scores are filed under it."""

    name: str
    verifier: Any

    def __call__(self, media: Any, prompts: Sequence[str]) -> Any:
        return self.verifier(media, prompts)

    def __getattr__(self, attribute: str) -> Any:
        if attribute in ("name", "verifier") or attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self.verifier, attribute)


def _member(spec: str) -> tuple[Any, float]:
    name, options, weight = _parts(spec)
    if ":" in name:
        return Named(name, _imported(name)), weight
    cls = registry.load("verifier", name)
    if options is None:
        return name, weight
    values = sampler_options.pairs([part for part in re.split(r",\s*(?=\w+\s*=)", options) if part.strip()])
    verifier = registry.make("verifier", name, sampler_options.typed("verifier", name, cls, values))
    return Named(f"{name}({options})", verifier), weight


def _imported(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)  # as `python -m` has it; a console script does not
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"verifier '{name}' cannot be imported: {error}.") from error
    finally:
        sys.path.remove(here)
    if isinstance(found, type):
        found = found()
    if not callable(found):
        raise UsageError(
            f"verifier '{name}' is a {type(found).__name__}, not a callable (media, prompts) -> scores."
        )
    return found
