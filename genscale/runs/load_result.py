"""Reads the folder of a run back: what `genscale generate --out` or `SearchResult.save` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genscale.engine.ensembles import name_of_total
from genscale.errors import UsageError
from genscale.report.prompt_summary import PromptSummary, ScoredCandidate
from genscale.report.search_report import Judges, SearchReport
from genscale.runs.saved_run import Decode, Final, SavedRun, decoder_of, read_run

if TYPE_CHECKING:
    from genscale.media import Media


@dataclass(frozen=True, repr=False)
class LoadedResult(SearchReport[Final]):
    """A search from its folder, to look at like a SearchResult: ranking, base, best, curve, table, plot, sheet, media.

    run: its request and finished candidates. pipe: what decodes its latents; None loads the run's own when needed.
    trust: whether code that comes with the run's own is run.
    """

    run: SavedRun
    seed: int | None
    pipe: Any = field(default=None, compare=False)
    trust: bool = False

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.run.request.prompts

    @property
    def stopped(self) -> str | None:
        """Why the run ended before its samplers did; "unfinished" of one that was killed."""
        if self.run.record is None:
            return "unfinished"
        stopped: str | None = self.run.record.get("stopped")
        return stopped

    @property
    def record(self) -> Mapping[str, Any]:
        """What run.json holds; empty of a run that is not finished."""
        return self.run.record or {}

    def media(self, finals: Sequence[Final]) -> Media:
        """Decode candidates whose latents are in the folder. UsageError: they are not, or the model is not known."""
        lost = [f.candidate.id for f in finals if f.file is None]
        if lost:
            raise UsageError(
                f"the latents of candidate {lost[0]} are not in '{self.folder}': it was not kept."
            )
        return self._decode(finals)

    def total(self, final: Final) -> float:
        """The number that ranks."""
        return final.total

    def ranking(self, prompt: int = 0) -> list[Final]:
        return self.run.ranking(prompt)

    def base(self, prompt: int = 0) -> Final | None:
        return self.run.base(prompt)

    def pareto(self, prompt: int = 0) -> list[Final]:
        return [self.run.finals[prompt][c.place] for c in self.run.summary(prompt).pareto()]

    @cached_property
    def _decode(self) -> Decode:
        return decoder_of(self.run, self.pipe, self.trust)

    @property
    def judges(self) -> Judges:
        roles = self.run.heading.get("verifiers", {})
        members = roles.get("select") or roles.get("search") or ()
        return self.run.request.ensemble, tuple((str(name), float(weight)) for name, weight in members)

    @property
    def limit(self) -> str:
        request = self.run.request
        return f"{request.budget} (pool)" if request.pool else request.budget or "none"

    @property
    def base_nfe(self) -> float | None:
        return None

    @property
    def wall_seconds(self) -> float | None:
        seconds: float | None = self.record.get("wall_seconds")
        return seconds

    def summary(self, prompt: int = 0) -> PromptSummary:
        ensemble, members = self.judges  # under the names that the search had for them
        searched = name_of_total(ensemble, [name for name, _ in members])
        return replace(self.run.summary(prompt), searched=searched)

    def media_of(self, prompt: int, candidates: Sequence[ScoredCandidate]) -> Media:
        finals = self.run.finals[prompt]
        return self.media([finals[c.place] for c in candidates])

    def __repr__(self) -> str:
        count = "1 prompt" if len(self.prompts) == 1 else f"{len(self.prompts)} prompts"
        finished = sum(map(len, self.run.finals))
        ended = "" if self.stopped is None else f", {self.stopped}"
        return f"LoadedResult('{self.folder}', {count}, {finished} candidates{ended})"


def load_result(folder: str | Path, pipe: Any = None, *, trust: bool = False) -> LoadedResult:
    """The result in the folder of a run, finished or not.

    pipe: the pipeline that made it, to decode with; None loads it by the name in the folder when it is first needed.
    trust: run Python code that comes with that model, if the run was made so.
    UsageError: the folder holds no run, no candidate of it is finished, or it was damaged.
    """
    run = read_run(Path(folder), shares=False)
    return LoadedResult(run, run.request.seed, pipe, trust)
