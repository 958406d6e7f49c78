"""What `genscale calibrate` found of verifiers: the scale of their scores, their noise, and how far they agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from genscale.numerics.rank_correlation import agreement
from genscale.numerics.score_noise import Array, ChangeNoise, noise_of, within
from genscale.protocol.calibration import ScoreScale
from genscale.results.verifier_calibration import Member, Reference
from genscale.results.verifier_calibration_file import (
    MemberEntry,
    ReferenceEntry,
    at_least_one,
    member_of,
    reference_of,
)
from genscale.storage.marked_json import MarkedJson
from genscale.storage.typed_json import Count

FILE, IMAGES = "calibration.json", "reference.safetensors"


@dataclass(frozen=True)
class MeasuredScores:
    """One verifier's scores of the candidates.

    name: of its scores. mean, sd: over the candidates of all prompts. within: their standard deviation around the mean
    of their prompt, which is what a search chooses from. noise: that of one candidate's score under changes that do not
    matter (genscale.numerics.score_noise), by change in `changes`. within, noise: None with one candidate a prompt.
    """

    name: str
    member: Member
    mean: float
    sd: float
    within: float | None
    noise: float | None
    changes: Mapping[str, ChangeNoise] = field(default_factory=dict)

    @property
    def scale(self) -> ScoreScale | None:
        """As ensembles and abstention use it; None where all scores are equal."""
        return ScoreScale(self.mean, self.sd, self.noise) if self.sd > 0 else None

    @property
    def noise_share(self) -> float | None:
        """The share of the variance within a prompt that is noise, in [0, 1]; so much of what best of N gains in the
        score is luck (genscale.numerics.order_statistics.split_gain)."""
        if not self.within or self.noise is None:
            return None
        return min((self.noise / self.within) ** 2, 1.0)


@dataclass(frozen=True)
class Agreed:
    """Spearman's rank correlation of two verifiers, the mean over prompts, with its 95 % interval (None: not known)."""

    first: str
    second: str
    rho: float | None
    low: float | None
    high: float | None
    prompts: int


@dataclass(frozen=True)
class ScoreCalibration:
    """All verifiers, and how far each two agree. frames: of a video that an image verifier scores; None: images.
    texts: the prompts. about: what was measured, for people."""

    scores: tuple[MeasuredScores, ...]
    agreement: tuple[Agreed, ...]
    texts: tuple[str, ...]
    reference: Reference
    frames: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def of(self, verifier: str) -> MeasuredScores:
        """The scores of one verifier by name. KeyError: it was not calibrated here."""
        return {s.name: s for s in self.scores}[verifier]

    def text(self) -> str:
        """As JSON, from which `read` makes an equal one."""
        scores = [
            {**asdict(s), "member": vars(s.member) | {"references": list(s.member.references)}}
            for s in self.scores
        ]
        data = {
            "calibrates": "scores",
            "frames": self.frames,
            "scores": scores,
            "agreement": [asdict(a) for a in self.agreement],
            "reference": {"digest": self.reference.digest, "prompts": list(self.reference.prompts)},
            "prompts": list(self.texts),
            "about": dict(self.about),
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def measured(
    names: Sequence[str],
    members: Sequence[Member],
    scores: Array,
    changed: Mapping[str, Array],
    prompts: NDArray[np.int64],
) -> tuple[tuple[MeasuredScores, ...], tuple[Agreed, ...]]:
    """Of scores [n, K] of n candidates of numbered prompts [n] by K verifiers.

    changed: by change, the scores [n, K] of the changed candidates, NaN where one was not changed.
    """
    found = []
    for k, (name, member) in enumerate(zip(names, members, strict=True)):
        column = scores[:, k]
        noise, changes = noise_of(column, {c: again[:, k] for c, again in changed.items()}, prompts)
        mean, sd = float(column.mean()), float(column.std(ddof=1)) if len(column) > 1 else 0.0
        found.append(MeasuredScores(name, member, mean, sd, within(column, prompts), noise, changes))
    agreed = []
    for a, b in combinations(range(len(names)), 2):
        pools = [[scores[prompts == p, k] for p in np.unique(prompts)] for k in (a, b)]
        told = agreement(*pools)
        agreed.append(Agreed(names[a], names[b], told.rho, told.low, told.high, told.prompts))
    return tuple(found), tuple(agreed)


class _Change(TypedDict):
    noise_sd: float
    shift: float
    images: Count


class _Scores(TypedDict):
    name: str
    member: MemberEntry
    mean: float
    sd: float
    within: float | None
    noise: float | None
    changes: dict[str, _Change]


class _Agreed(TypedDict):
    first: str
    second: str
    rho: float | None
    low: float | None
    high: float | None
    prompts: Count


class _File(TypedDict):
    calibrates: Literal["scores"]
    frames: int | None
    scores: Annotated[list[_Scores], at_least_one]
    agreement: list[_Agreed]
    reference: ReferenceEntry
    prompts: list[str]
    about: dict[str, Any]


KIND = MarkedJson(
    FILE,
    ("calibrates", "scores"),
    _File,
    "calibration of scores",
    unmarked="it calibrates no scores",
    command="calibrate",
    label="calibration",
)


def read(folder: Path) -> tuple[ScoreCalibration, str]:
    """What `genscale calibrate` wrote into a folder, and the digest of its content.

    UsageError: the folder holds no such calibration, or it was damaged.
    """
    data, digest = KIND.read(folder)
    with KIND.checking(folder):
        scores = tuple(_scores(entry) for entry in data["scores"])
        reference = reference_of(data["reference"])
        if any(len(s.member.references) != len(reference.prompts) for s in scores):
            raise ValueError("its references do not belong to its verifiers")
        agreed = tuple(Agreed(**entry) for entry in data["agreement"])
        texts = tuple(data["prompts"])
        return ScoreCalibration(scores, agreed, texts, reference, data["frames"], data["about"]), digest


def _scores(entry: Mapping[str, Any]) -> MeasuredScores:
    """ValueError: a spread is below 0."""
    changes = {name: ChangeNoise(**change) for name, change in entry["changes"].items()}
    spreads = [
        entry["sd"],
        entry["within"] or 0.0,
        entry["noise"] or 0.0,
        *(c.noise_sd for c in changes.values()),
    ]
    if min(spreads) < 0:
        raise ValueError("a standard deviation is below 0")
    rest = {name: entry[name] for name in ("mean", "sd", "within", "noise")}
    return MeasuredScores(entry["name"], member_of(entry["member"]), **rest, changes=changes)
