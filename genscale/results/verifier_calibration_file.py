"""Reads the calibration of verifiers back from its folder, and checks it: it may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch

from genscale.numerics.log_odds import LogOdds
from genscale.numerics.probability_curve import ProbabilityCurve
from genscale.protocol.calibration import Calibration
from genscale.results.verifier_calibration import Level, Member, Reference, VerifierCalibration
from genscale.storage.marked_json import MarkedJson
from genscale.storage.typed_json import Count

FILE, IMAGES = "calibration.json", "reference.safetensors"


class MemberEntry(TypedDict):
    verifier: str
    options: dict[str, Any]
    references: list[float]
    spread: float


class _Curve(TypedDict):
    kind: Literal["isotonic", "logistic"]
    scores: list[float]
    probabilities: list[float]


class _Level(TypedDict):
    progress: float
    curves: list[_Curve]
    base: float
    bias: float
    weights: list[float]


class _Table(TypedDict):
    previews: list[list[float]]
    finals: list[float]
    right: list[float]
    prompts: list[Count]


class ReferenceEntry(TypedDict):
    digest: str
    prompts: list[str]


def at_least_one(values: list[Any]) -> bool:
    return len(values) > 0


class _File(TypedDict):
    calibrates: Literal["verifiers"]
    members: Annotated[list[MemberEntry], at_least_one]
    frames: int | None
    steps: Annotated[int, bool]
    levels: Annotated[list[_Level], at_least_one]
    reference: ReferenceEntry
    prompts: list[str]
    table: _Table
    about: dict[str, Any]


KIND = MarkedJson(
    FILE,
    ("calibrates", "verifiers"),
    _File,
    "calibration of verifiers",
    unmarked="it calibrates no verifiers",
    command="calibrate-verifier",
    label="calibration",
)


def read(folder: Path) -> tuple[VerifierCalibration, str]:
    """What `genscale calibrate-verifier` wrote into a folder, and the digest of its content.

    UsageError: the folder holds no such calibration, or it was damaged.
    """
    found, digest = KIND.read(folder)
    with KIND.checking(folder):
        return _made(found), digest


def member_of(entry: MemberEntry) -> Member:
    return Member(entry["verifier"], entry["options"], tuple(entry["references"]), entry["spread"])


def reference_of(entry: ReferenceEntry) -> Reference:
    return Reference(entry["digest"], tuple(entry["prompts"]))


def _made(data: Mapping[str, Any]) -> VerifierCalibration:
    """ValueError: the parts do not belong together."""
    members = tuple(map(member_of, data["members"]))
    levels = tuple(
        Level(
            v["progress"],
            tuple(
                ProbabilityCurve(c["kind"], tuple(c["scores"]), tuple(c["probabilities"]))
                for c in v["curves"]
            ),
            LogOdds(v["base"], v["bias"], tuple(v["weights"])),
        )
        for v in data["levels"]
    )
    progress = [v.progress for v in levels]
    table, reference = data["table"], reference_of(data["reference"])
    n, k = len(table["finals"]), len(members)
    of_members = all(len(v.curves) == len(v.combination.weights) == k for v in levels)
    alike = all(len(m.references) == len(reference.prompts) for m in members)
    if progress != sorted({p for p in progress if p > 0}) or progress[-1] != 1 or not of_members or not alike:
        raise ValueError("its levels or references do not belong to its verifiers")
    if any(not 0 <= p <= 1 for row in (table["finals"], table["right"], *table["previews"]) for p in row):
        raise ValueError("its table holds what is no probability")
    if [len(row) for row in table["previews"]] != [len(levels) - 1] * n:
        raise ValueError("its table does not belong to its levels")
    previews = torch.tensor(table["previews"], dtype=torch.float64).reshape(n, len(levels) - 1)
    calibration = Calibration(
        tuple(progress[:-1]),
        previews,
        torch.tensor(table["finals"], dtype=torch.float64),
        torch.tensor(table["right"], dtype=torch.float64),
        torch.tensor(table["prompts"], dtype=torch.int64),
        data["steps"],
    )
    texts = tuple(data["prompts"])
    return VerifierCalibration(members, levels, calibration, texts, reference, data["frames"], data["about"])
