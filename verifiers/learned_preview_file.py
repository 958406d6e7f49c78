"""What `genscale train-preview` learned, its folder, and how that is read back: it may come from anybody."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
from torch import Tensor, from_numpy

from genscale.engine.tensor_files import load_tensors, save_tensors
from genscale.errors import UsageError
from genscale.numerics.ridge import Linear
from genscale.results.verifier_calibration import Member, Reference
from genscale.results.verifier_calibration_file import (
    MemberEntry,
    ReferenceEntry,
    at_least_one,
    member_of,
    reference_of,
)
from genscale.storage.marked_json import MarkedJson

FILE, WEIGHTS, IMAGES = "preview.json", "preview.safetensors", "reference.safetensors"


@dataclass(frozen=True)
class PreviewLevel:
    """What was learned of the previews at one share of the run.

    progress: in (0, 1). predictor: of features. network: tuned weights, by name; None: the verifier's own network.
    """

    progress: float
    predictor: Linear
    network: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Learned:
    """A verifier and its levels by progress. frames: of a video; None: images. about: what was measured."""

    member: Member
    levels: tuple[PreviewLevel, ...]
    reference: Reference
    steps: int
    frames: int | None
    about: Mapping[str, Any]

    def nearest(self, progress: float) -> int:
        """The number of the level that is nearest to a share of the run; of two the earlier."""
        return min(range(len(self.levels)), key=lambda i: abs(self.levels[i].progress - progress))


class _File(TypedDict):
    learned: Literal["preview"]
    member: MemberEntry
    levels: Annotated[list[float], at_least_one]
    weights: str
    reference: ReferenceEntry
    steps: Annotated[int, bool]
    frames: int | None
    about: dict[str, Any]


KIND = MarkedJson(FILE, ("learned", "preview"), _File, "learned preview", "it holds none", "train-preview")
Write = Callable[[str, Callable[[Path], Any]], Any]
"""(name, what writes the file at a path); see `genscale.runs.run_folder.RunFolder.write`."""


def write(found: Learned, writer: Write) -> None:
    """The files of a folder, but for the reference images."""
    tensors: dict[str, Tensor] = {}
    for i, level in enumerate(found.levels):
        row = np.concatenate([level.predictor.weights, [level.predictor.bias]])
        tensors[f"{i}.head"] = from_numpy(row)
        tensors |= {f"{i}.network.{k}": v for k, v in (level.network or {}).items()}
    digests: list[str] = []
    writer(WEIGHTS, lambda path: digests.append(save_tensors(path, tensors)))
    data = {
        "learned": "preview",
        "member": vars(found.member) | {"references": list(found.member.references)},
        "levels": [level.progress for level in found.levels],
        "weights": digests[-1],
        "reference": {"digest": found.reference.digest, "prompts": list(found.reference.prompts)},
        "steps": found.steps,
        "frames": found.frames,
        "about": dict(found.about),
    }
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    writer(FILE, lambda path: path.write_text(text, encoding="utf-8"))


def read(folder: Path) -> tuple[Learned, str]:
    """What `write` wrote into a folder, and the digest of its content. UsageError: it holds something else."""
    found, digest = KIND.read(folder)
    try:
        tensors = load_tensors(folder / WEIGHTS, found["weights"])
    except UsageError:
        raise UsageError(
            f"the weights '{folder / WEIGHTS}' are missing or damaged: restore them, or run "
            "genscale train-preview again."
        ) from None
    with KIND.checking(folder):
        return _made(found, tensors), digest


def _made(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Learned:
    """ValueError, KeyError: the parts do not belong together."""
    progress = data["levels"]
    if progress != sorted({p for p in progress if 0 < p < 1}):
        raise ValueError("its levels are no increasing shares of a run")
    member, reference = member_of(data["member"]), reference_of(data["reference"])
    if len(member.references) != len(reference.prompts):
        raise ValueError("its references do not belong to its verifier")
    levels = []
    for i, share in enumerate(progress):
        row = tensors[f"{i}.head"].double().numpy()
        if row.ndim != 1 or len(row) < 2 or not np.isfinite(row).all():
            raise ValueError("its weights are no finite numbers")
        prefix = f"{i}.network."
        network = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        levels.append(PreviewLevel(share, Linear(row[:-1], float(row[-1])), network or None))
    return Learned(member, tuple(levels), reference, data["steps"], data["frames"], data["about"])
