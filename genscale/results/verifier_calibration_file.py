"""Reads the calibration of verifiers back from its folder, and checks it: it may come from anybody."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch

from genscale.errors import UsageError
from genscale.numerics.log_odds import LogOdds
from genscale.numerics.probability_curve import ProbabilityCurve
from genscale.protocol.calibration import Calibration
from genscale.results.verifier_calibration import Level, Member, Reference, VerifierCalibration
from genscale.safe_json import read_bytes
from genscale.storage import typed_json
from genscale.storage.typed_json import Count

FILE, IMAGES = "calibration.json", "reference.safetensors"


class _Member(TypedDict):
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


class _Reference(TypedDict):
    digest: str
    prompts: list[str]


def _some(values: list[Any]) -> bool:
    return len(values) > 0


class _File(TypedDict):
    calibrates: Literal["verifiers"]
    members: Annotated[list[_Member], _some]
    frames: int | None
    steps: Annotated[int, bool]
    levels: Annotated[list[_Level], _some]
    reference: _Reference
    prompts: list[str]
    table: _Table
    about: dict[str, Any]


def read(folder: Path) -> tuple[VerifierCalibration, str]:
    """What `genscale calibrate-verifier` wrote into a folder, and the digest of its content.

    UsageError: the folder holds no such calibration, or it was damaged.
    """
    hint = "`genscale calibrate-verifier` writes them"
    path = folder / FILE
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is not the folder of a calibration of verifiers: {hint}.")
    data = read_bytes(path, f"calibration '{path}'")
    try:
        found = typed_json.parse(data)
        if not isinstance(found, dict) or found.get("calibrates") != "verifiers":
            raise ValueError("it calibrates no verifiers")
        typed_json.check(found, _File)
        return _made(found), hashlib.blake2b(data, digest_size=16).hexdigest()
    except (ValueError, OverflowError) as error:
        raise UsageError(f"'{path}' is no calibration of verifiers ({error}): {hint}.") from None


def _made(data: Mapping[str, Any]) -> VerifierCalibration:
    """ValueError: the parts do not belong together."""
    members = tuple(
        Member(m["verifier"], m["options"], tuple(m["references"]), m["spread"]) for m in data["members"]
    )
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
    table, reference = (
        data["table"],
        Reference(data["reference"]["digest"], tuple(data["reference"]["prompts"])),
    )
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
