"""Verifiers as they are written on the command line.

clip                                   a registered verifier
clip:2                                 with weight 2
"clip(model=ViT-L-14,device=cpu):2"    with options of its own
calibrated:DIR                         verifiers that were calibrated, by the folder of their calibration
learned_preview:DIR                    a verifier whose previews were learned, by the folder of what was learned
vlm_judge:http://HOST/v1,model=NAME    a verifier that asks a server: the address of its API, and options
measured:DIR                           the verifier whose scores `genscale calibrate` measured, by that folder
package.module:judge                   any callable that can be imported, also from the working folder
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genscale.call_syntax import Call, parse_call
from genscale.errors import UsageError
from genscale.plugins import options, registry
from genscale.runs.named_code import imported

if TYPE_CHECKING:
    from genscale.engine.stopping import Stop

# package.module:callable is a name, too; what comes behind a colon at the end is the weight.
_FORM = re.compile(r"(?P<call>[\w.\-]+(?::[A-Za-z_][\w.]*)?(?:\(.*\))?)(?::(?P<weight>[-+.\deE]+))?")

CALIBRATED = "calibrated"
FOLDERS = (CALIBRATED, "learned_preview", "measured")
"""Verifiers that are read from a folder, which is their first option."""
_SERVER = re.compile(r"\s*(?P<name>\w+):(?P<settings>https?://.*)", re.DOTALL)


def weighted_verifiers(specs: Sequence[str]) -> list[tuple[Any, float]]:
    """(verifier, weight) of each; the verifiers are made, and load nothing yet."""
    return [_member(spec) for spec in specs]


def with_boxes(
    members: Sequence[tuple[Any, float]], file: str, prompts: Sequence[str]
) -> list[tuple[Any, float]]:
    """The same verifiers, which also score the regions in a boxes file. prompts: those that the file refers to."""
    cls = registry.load("verifier", "boxes")
    boxes = cls.read(Path(file), prompts)
    return [(cls(v, boxes), weight) for v, weight in members]


def on_frames(members: Sequence[tuple[Any, float]], k: int) -> list[tuple[Any, float]]:
    """The same verifiers for videos: image verifiers (no `judges_videos`) score k frames, and the mean counts.

    Those that judge no images stay as they are.
    """
    from genscale.engine.judged_kinds import judged_kinds  # loads torch, which help does not need
    from genscale.media_items import IMAGE

    frames = registry.load("verifier", "frames")

    def on_frames_of(verifier: Any) -> Any:
        cls = registry.load("verifier", verifier) if isinstance(verifier, str) else verifier
        if getattr(cls, "judges_videos", getattr(cls, "judges_clips", False)):
            return verifier
        if IMAGE not in judged_kinds(cls):
            return verifier
        return Named(verifier if isinstance(verifier, str) else verifier.name, frames(verifier, k=k))

    return [(on_frames_of(verifier), weight) for verifier, weight in members]


def named_verifier(name: str) -> Named:
    """A registered verifier with its defaults."""
    return Named(name, registry.make("verifier", name, {}))


def needs_trust(specs: Sequence[str]) -> list[str]:
    """The specs that name a module, whose code would be imported, or a server, which images and a key would be sent to.

    A file from somebody else may not ask for either.
    """
    return [s for s in specs if ":" in _parts(s)[0].name or _asks_server(_parts(s)[0])]


def _asks_server(call: Call) -> bool:
    return "url" in call.by_name or "http://" in str(call.text) or "https://" in str(call.text)


def unweighted(spec: str) -> str:
    """The verifier without its weight."""
    call, _ = _parts(spec)
    return _name_of(call)


def with_guards(stop: Stop | None) -> Stop | None:
    """The rules with their guards' verifiers made. UsageError: a guard is not registered."""
    return stop and stop.with_verifiers(_guard)


def _guard(spec: Any) -> Any:
    if isinstance(spec, str):
        plugin_of(spec)  # refuses code of a module: a stop rule may come with a folder from elsewhere
        return _member(spec)[0]
    return spec


def anchored(spec: str) -> str:
    """The spec with the folder of what was learned absolute, so that it means the same from every working folder."""
    if not spec.strip().startswith(FOLDERS):
        return spec
    call, weight = _parts(spec)
    given = options.pairs(call.settings()) if call.name in FOLDERS else {}
    if "folder" not in given:
        return spec
    given["folder"] = os.path.abspath(os.path.expanduser(given["folder"]))
    if weight == 1 and len(given) == 1:
        return f"{call.name}:{given['folder']}"
    told = ",".join(f"{name}={value}" for name, value in given.items())
    return f"{call.name}({told})" + ("" if weight == 1 else f":{weight:g}")


def scored_as(spec: str) -> str:
    """The name under which the scores of a verifier are stored."""
    call, _ = _parts(spec)
    return str(_member(spec)[0].name) if call.name in FOLDERS and call.text is not None else _name_of(call)


def plugin_of(spec: str) -> tuple[str, dict[str, Any]]:
    """The name of a registered verifier and the options that a spec gives it. UsageError: it is a callable of a module,
    has a weight, or compares candidates with each other."""
    call, weight = _parts(spec)
    if ":" in call.name or weight != 1 or _asks_server(call):
        what = "code of a module" if ":" in call.name else "a weight" if weight != 1 else "a server"
        raise UsageError(
            f"verifier '{spec}' has {what}: name a registered verifier, without a weight or a server."
        )
    cls = registry.load("verifier", call.name)
    if getattr(cls, "gives_embeddings", False):
        raise UsageError(
            f"verifier '{spec}' compares candidates with each other: name one that scores a candidate alone."
        )
    return call.name, options.typed("verifier", call.name, cls, options.pairs(call.settings()))


def _name_of(call: Call) -> str:
    """The verifier as it is named."""
    return call.name if call.text is None else f"{call.name}({call.text})"


def _parts(spec: str) -> tuple[Call, float]:
    kind, _, folder = spec.strip().partition(":")
    if kind in FOLDERS and folder:
        return Call(kind, f"folder={folder}", (("folder", folder),)), 1.0
    if server := _SERVER.fullmatch(
        spec
    ):  # a weight would be read as part of a model's name: that takes brackets
        call = parse_call(f"{server['name']}(url={server['settings'].strip()})")
        if call is not None:
            return call, 1.0
    match = _FORM.fullmatch(spec.strip())
    try:
        weight = float(match["weight"] or 1) if match else 1.0
    except ValueError:
        match = None
    call = None if match is None else parse_call(match["call"])
    if call is None:
        raise UsageError(
            f"verifier '{spec}' cannot be read: write name, name:weight or package.module:callable."
        )
    return call, weight


@dataclass(frozen=True)
class Named:
    """A verifier with the name that the user gave for it; its scores are stored under that name."""

    name: str
    verifier: Any

    def __call__(self, media: Any, prompts: Sequence[str]) -> Any:
        return self.verifier(media, prompts)

    @property
    def identity(self) -> Any:
        """What it is identified by, as where the verifier is given in Python."""
        return self.verifier

    def __getattr__(self, attribute: str) -> Any:
        if attribute in ("name", "verifier") or attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self.verifier, attribute)


def _member(spec: str) -> tuple[Any, float]:
    call, weight = _parts(spec)
    if ":" in call.name:
        return Named(call.name, _imported(call.name)), weight
    if call.text is None:
        return named_verifier(call.name), weight
    cls = registry.load("verifier", call.name)
    values = options.typed("verifier", call.name, cls, options.pairs(call.settings()))
    made = registry.make("verifier", call.name, values)
    return Named(made.name if call.name in FOLDERS else _name_of(call), made), weight


def _imported(name: str) -> Any:
    return imported(name, "verifier", "(media, prompts) -> scores")
