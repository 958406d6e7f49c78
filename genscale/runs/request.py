"""Everything that one run was asked for: enough to do it again, from its folder or from its image."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.plugins import options, registry
from genscale.runs.file_metadata import read_metadata

FILE = "request.json"
# Fields that change how a run is done, not what comes out of it.
_MANNER = (
    *("device", "device_map", "attention", "offload", "compile", "vae_slicing", "trust_remote_code"),
    *("decode_batch", "metadata", "images", "formats", "fps"),
)
_PATHS = ("image", "mask_image", "control_image", "boxes")


@dataclass(frozen=True)
class Request:
    """A run in words and numbers that JSON can hold. None, empty: the default of the model or pipeline."""

    prompts: tuple[str, ...] = ()
    model: str = "shapes-flow"
    sampler: str = "best_of_n"
    sampler_fields: Mapping[str, Any] = field(default_factory=dict)
    verifiers: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    ensemble: str = "weighted"
    budget: str | None = None
    stop: str | None = None
    boxes: str | None = None
    mix: tuple[str, ...] = ()
    guide: str | None = None
    negative: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    clips: bool = False
    frames: int | None = None
    fps: float | None = None
    formats: tuple[str, ...] = ()
    per_frame: int = 8
    images: int = 1
    image: str | None = None
    mask_image: str | None = None
    control_image: str | None = None
    pipeline_args: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str | None = None
    batch_size: int = 16
    decode_batch: int | None = None
    device_map: str | None = None
    attention: str | None = None
    offload: str | None = None
    compile: bool = False
    vae_tiling: bool = False
    vae_slicing: bool = False
    lora: tuple[str, ...] = ()
    variant: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    metadata: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it, without what was left at its default."""
        plain = json.loads(json.dumps(registry.plain(asdict(self))))
        empty = json.loads(json.dumps(asdict(Request())))
        return {k: v for k, v in plain.items() if k == "model" or k == "sampler" or v != empty[k]}

    def difference(self, other: Request) -> str | None:
        """A field in which the two ask for different results, or None."""
        mine, theirs = self.as_dict(), other.as_dict()
        return next((f.name for f in fields(self) if _differ(f.name, mine, theirs)), None)

    def seeded(self) -> Request:
        """With a seed, drawn where none was given."""
        return self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(4), "big"))

    def anchored(self) -> Request:
        """With the paths of local files absolute, so that it means the same from every working folder."""
        moved: dict[str, Any] = {k: os.path.abspath(v) for k in _PATHS if (v := getattr(self, k)) is not None}
        if os.path.exists(self.model):
            moved["model"] = os.path.abspath(self.model)
        moved["mix"] = tuple(
            f"{os.path.abspath(name)}:{weight}" if os.path.exists(name) else term
            for term in self.mix
            for name, _, weight in [term.rpartition(":")]
        )
        return replace(self, **moved)


def _differ(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return name not in _MANNER and mine.get(name) != theirs.get(name)


_RENAMED = {"report": "held_out"}  # fields of requests that were written under another name


def from_dict(data: Any, source: str) -> Request:
    """A request read from JSON; `source` names it in messages."""
    types = options.field_types(Request)
    try:
        if data["prompts"]:
            current = {_RENAMED.get(name, name): value for name, value in data.items()}
            return Request(**{name: options.convert(v, types[name]) for name, v in current.items()})
    except (KeyError, TypeError, ValueError):
        pass
    raise UsageError(f"'{source}' holds no request that this version of genscale can read.")


def load_folder(folder: Path) -> Request:
    """The request of a run folder."""
    path = folder / FILE
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is not a folder: name the folder of an earlier run.")
    if not path.is_file():
        raise UsageError(f"'{folder}' holds no run: it has no {FILE}.")
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"'{path}' cannot be read: {error}.") from None


def load_request(file: Path) -> Request:
    """The request in an image or clip that genscale wrote. They travel, so it may not switch foreign code on."""
    return replace(from_dict(read_metadata(file)["request"], str(file)), trust_remote_code=False)
