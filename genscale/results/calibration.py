"""From which step on scores of previews predict those of the final images: measured for a model and its verifiers.

Every method that scores clean estimates on the way (halving, particles, trees) assumes that a better preview
becomes a better image. Early in a run it does not, and how early depends on model, steps and verifier.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.preview_steps import fraction_of
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.rank_correlation import Agreement, agreement
from genscale.plugins.limits import COUNT, check_plugin
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, draw
from genscale.protocol.queries import Query, Score, Solve
from genscale.results.result import SearchResult
from genscale.safe_json import parse_json, read_bytes

FILE = "calibration.json"
FEWEST = 4  # candidates: fewer have no top quarter
THRESHOLD = 0.5


@dataclass(frozen=True)
class Previews:
    """A sampler that finishes candidates with the pipeline's own scheduler, and scores them after every step.

    candidates: how many. Cost in NFE: N f(0, T). Scores: N after each step.
    """

    candidates: int = 16

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})

    def __post_init__(self) -> None:
        if self.candidates < FEWEST:
            raise UsageError(
                f"a calibration needs at least {FEWEST} candidates to rank, not {self.candidates}."
            )

        if not COUNT.admits(self.candidates):
            raise UsageError(f"candidates={self.candidates} must be {COUNT}.")

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        if process.steps < 2:
            raise UsageError("a run of 1 step has no previews to calibrate: take more steps.")
        particles: Particles = process.start([draw(key, i) for i in range(self.candidates)])
        for step in range(1, process.steps + 1):
            particles = yield Solve(particles, step)
            yield Score(particles)

    def cost(self, process: Process) -> int | None:
        return self.candidates * process.nfe()


@dataclass(frozen=True)
class CalibratedStep:
    """How well previews after one step predict the final scores.

    step: model calls done, the last of which made the preview. fraction: of the run at which samplers score this
    preview: that of the state which this call saw (genscale.algorithms.preview_steps). time: noise level of that state,
    as time of the rectified flow (1: pure noise); None where the schedule cannot be read.
    """

    step: int
    fraction: float
    time: float | None
    agreement: Agreement


@dataclass(frozen=True)
class Calibration:
    """What a calibration measured.

    levels: one for each step but the last, after which the previews are the final images; in the order of the run.
    threshold: mean rank correlation from which on previews are trusted. about: what was measured: model,
    verifiers, prompts, steps, ...
    """

    levels: tuple[CalibratedStep, ...]
    threshold: float = THRESHOLD
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(
                f"a threshold of {self.threshold} is out of range: give a rank correlation in (0, 1]."
            )

    @staticmethod
    def of(
        result: SearchResult, threshold: float = THRESHOLD, about: Mapping[str, Any] | None = None
    ) -> Calibration:
        """From a search with the sampler Previews."""
        totals, times = _totals(result), _times(result.searches[0].process)
        steps = totals.shape[1]
        levels = [
            CalibratedStep(
                i,
                fraction_of(i, steps),
                times[i - 1],
                agreement(totals[:, i - 1].numpy(), totals[:, -1].numpy()),
            )
            for i in range(1, steps)
        ]
        return Calibration(tuple(levels), threshold, about or {})

    def window(self, threshold: float | None = None) -> tuple[float, float]:
        """The part of the run in which previews are trusted, as (start, 1.0) in fractions of the run.

        From start on the mean rho stays at the threshold or above it; (1.0, 1.0) if it does so at no step.
        threshold: None for the calibration's own.
        """
        wanted, start = self.threshold if threshold is None else threshold, 1.0
        for level in reversed(self.levels):
            rho = level.agreement.rho
            if rho is None or rho < wanted:
                break
            start = level.fraction
        return start, 1.0

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        steps = [
            {"step": v.step, "fraction": v.fraction, "time": v.time, **asdict(v.agreement)}
            for v in self.levels
        ]
        return {**self.about, "threshold": self.threshold, "window": list(self.window()), "levels": steps}

    def save(self, path: str | Path) -> None:
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        Path(path).write_text(text, encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Calibration:
        """From a file that `save` wrote, or from the folder that holds it."""
        path = Path(path).expanduser()
        path = path / FILE if path.is_dir() else path
        text, hint = read_bytes(path, f"calibration '{path}'"), "`genscale calibrate-steps` writes them"
        data = parse_json(text, f"'{path}' is not a calibration: it", hint)
        try:
            records = data.pop("levels")
            levels = tuple(_level(dict(record), len(records) + 1) for record in records)
            threshold = float(data.pop("threshold"))
            del data["window"]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise UsageError(
                f"'{path}' is not a calibration: `genscale calibrate-steps` writes them."
            ) from None
        return Calibration(levels, threshold, data)


def _level(record: dict[str, Any], steps: int) -> CalibratedStep:
    where = {name: record.pop(name) for name in ("step", "fraction", "time")}
    if isinstance(where["step"], int):
        where["fraction"] = fraction_of(
            where["step"], steps
        )  # once the fraction of calls done, one call later
    where["fraction"] = float(where["fraction"])
    level = CalibratedStep(**where, agreement=Agreement(**record))
    for part in (level, level.agreement):
        check_plugin("a calibration", part)
    return level


def _totals(result: SearchResult) -> Tensor:
    """Scores of every candidate after every step, float64 [prompts, steps, candidates].

    By the search verifiers, as a sampler sees them: ranks of an ensemble are those within one step.
    """
    raw: dict[tuple[int, int], dict[int, list[float]]] = {}
    for entry in result.entries:
        names = result.searches[entry.prompt].roles.search.names
        raw.setdefault((entry.prompt, entry.step), {})[entry.candidate.id] = [entry.scores[n] for n in names]
    rows = []
    for p, search in enumerate(result.searches):
        pools = [raw[p, step] for step in range(1, search.process.steps + 1)]
        scores = [torch.tensor([pool[i] for i in sorted(pool)], dtype=torch.float64) for pool in pools]
        rows.append(torch.stack([search.roles.search.combine(s) for s in scores]))
    return torch.stack(rows)


def _times(process: Process) -> list[float | None]:
    """Noise level of the input of each model call."""
    try:
        times: list[float | None] = process.schedule.linear_time.tolist()
    except UsageError:
        return [None] * process.steps
    return times
