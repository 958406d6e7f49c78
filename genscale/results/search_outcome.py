"""What a search found, for every prompt: its candidates, scores and costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.ensembles import Column, name_of_total
from genscale.engine.failures import Failure
from genscale.engine.ledger import Ledger
from genscale.engine.search import Search
from genscale.engine.stopping import Stopped, kl_of_best
from genscale.media import Media
from genscale.media_items import IMAGE, VIDEO
from genscale.protocol.particles import OWN, Candidate
from genscale.protocol.population import Population
from genscale.report.prompt_summary import PromptSummary, ScoredCandidate
from genscale.report.search_report import Judges, SearchReport
from genscale.results.diversity import Diversity, diversity_of
from genscale.results.result_copies import deep_copied, pickled_state
from genscale.results.run_description import RunDescription

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11 on


@dataclass(frozen=True, repr=False)
class SearchOutcome(SearchReport[Entry]):
    """All that a search found, for every prompt.

    entries: everything that was scored, previews included, in order. stopped: why the run ended before its
    samplers did ("interrupted"), None otherwise. seed: root of every key of the run. describe: what the search was
    asked for, for files; None where it was not made by `genscale.scale`. drafts: the search of the drafts, of which the
    candidates here are the best, made in full; None without drafts.
    """

    searches: tuple[Search, ...]
    entries: tuple[Entry, ...]
    ledger: Ledger
    budget: Budget
    seed: int
    decode: Callable[[Sequence[Entry]], Media]
    stopped: str | None = None
    describe: Callable[[], RunDescription] | None = field(default=None, compare=False)
    drafts: SearchOutcome | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(s.prompt for s in self.searches)

    def ranking(self, prompt: int = 0) -> list[Entry]:
        return self.searches[prompt].ranking()

    def base(self, prompt: int = 0) -> Entry | None:
        return next((e for e in self.searches[prompt].finals if e.candidate.id == OWN), None)

    def total(self, entry: Entry) -> float:
        """The number that ranks an entry; under a rank ensemble its rank among all finished candidates.

        Of a preview, which cannot win, its search score (NaN under ranks).
        """
        if not entry.final:
            return float("nan") if entry.total is None else entry.total
        search = self.searches[entry.prompt]
        return next(t for e, t in zip(search.finals, search.totals(search.finals), strict=True) if e is entry)

    def dropped(self, prompt: int = 0) -> list[Failure]:
        """Candidates of a prompt that were dropped because their latents, pixels or scores are not finite."""
        return self.searches[prompt].dropped

    def population(self, prompt: int = 0) -> Population | None:
        """The weighted candidates of a particle method; None of other samplers."""
        return self.searches[prompt].population

    def stopped_by(self, prompt: int = 0) -> Stopped | None:
        """The stop rule or target that ended a prompt's search; None where its sampler or budget ended it."""
        return self.searches[prompt].stopped

    def accepted(self, prompt: int = 0) -> dict[str, Any] | None:
        """Whether a candidate was good enough, for samplers that accept one; None of other samplers.

        least: the search score from which on one is accepted. candidate: the id of the first one; None: none was, and
        the best of those finished is the answer.
        """
        search = self.searches[prompt]
        if search.accepts is None:
            return None
        found = search.accepted
        return {"least": search.accepts, "candidate": None if found is None else found.candidate.id}

    def kl(self, prompt: int = 0) -> dict[str, Any] | None:
        """How far the best can be from the model's distribution, for samplers of independent draws; else None.

        candidates: N, those finished. nats: log N - (N - 1) / N. bound: whether KL(best || model) is at most that;
        not where scores may end the search (a stop rule, a target, a shared budget), since N then depends on them.
        """
        search = self.searches[prompt]
        if not search.independent or not search.finished:
            return None
        nats = kl_of_best(search.finished)
        return {"candidates": search.finished, "nats": nats, "bound": not search.rules and not self.pooled}

    def media(self, entries: Sequence[Entry]) -> Media:
        """Decode entries whose latents were kept: the pipeline's own and the best (`keep`)."""
        lost = [e.candidate.id for e in entries if e.x is None]
        if lost:
            raise ValueError(f"the latents of candidate {lost[0]} were not kept: give scale() a larger keep=")
        return self.decode(entries)

    def diversity(self, prompt: int = 0) -> Diversity | None:
        """How different the best candidates of a prompt are whose latents were kept (`keep`): Vendi score and mean
        distance of their embeddings, by the first verifier that has any. None: fewer than two, or no such verifier."""
        kept = [entry for entry in self.ranking(prompt) if entry.x is not None]
        media = self.media(kept) if len(kept) > 1 else None
        if media is None or media.kind not in (IMAGE, VIDEO):
            return None
        return diversity_of(media.pixels, self.searches[prompt].roles)

    # ---------------------------------------------------------------- as plain data

    @property
    def judges(self) -> Judges:
        judge = self.searches[0].roles.judge
        return judge.ensemble, tuple((member.name, member.weight) for member in judge.members)

    @property
    def limit(self) -> str:
        return f"{self.budget} (pool)" if self.pooled else str(self.budget)

    @property
    def pooled(self) -> bool:
        """Whether the prompts shared one budget: `budget` times their number."""
        return any(s.allowance is not None for s in self.searches)

    @property
    def base_nfe(self) -> float:
        return float(self.searches[0].process.nfe())

    @property
    def wall_seconds(self) -> float:
        return sum(self.ledger.seconds.values())

    def summary(self, prompt: int = 0) -> PromptSummary:
        """One prompt's candidates and scores as plain data."""
        search = self.searches[prompt]
        ranks, judge = search.ranks, search.roles.judge
        each = zip(search.finals, search.totals(search.finals), ranks.told(search.finals), strict=True)
        finals = tuple(
            scored_candidate(n, e, t, e.x is not None, told, ranks.broken(e))
            for n, (e, t, told) in enumerate(each)
        )
        base = next((c for c, e in zip(finals, search.finals, strict=True) if e.candidate.id == OWN), None)
        return PromptSummary(
            search.prompt, name_of_total(judge.ensemble, judge.names), finals, base, search.roles.held_out.names,
            search.spent, ranks.margin, objectives(judge.names, judge.columns),
            search.independent and judge.pointwise,
        )  # fmt: skip

    def abstained(self, prompt: int = 0) -> bool:
        """Whether the pipeline's own candidate is kept because none is better than it by `abstain`."""
        return self.searches[prompt].ranks.abstained

    def broken(self, entry: Entry) -> tuple[str, ...]:
        """What a finished candidate breaks of what is required of the winner."""
        return self.searches[entry.prompt].ranks.broken(entry)

    def pareto(self, prompt: int = 0) -> list[Entry]:
        return [self.searches[prompt].finals[c.place] for c in self.summary(prompt).pareto()]

    def media_of(self, prompt: int, candidates: Sequence[ScoredCandidate]) -> Media:
        """Images or videos of candidates of a summary whose latents are kept."""
        finals = self.searches[prompt].finals
        return self.media([finals[c.place] for c in candidates])

    def __getstate__(self) -> dict[str, Any]:
        return pickled_state(vars(self))

    def __copy__(self) -> Self:
        return self._with(vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._with(deep_copied(vars(self), memo))

    def _with(self, state: dict[str, Any]) -> Self:
        made = object.__new__(type(self))
        vars(made).update(state)
        return made

    def __repr__(self) -> str:
        finished = sum(s.finished for s in self.searches)
        ended = "" if self.stopped is None else f", {self.stopped}"
        count = "1 prompt" if len(self.prompts) == 1 else f"{len(self.prompts)} prompts"
        return f"{type(self).__name__}({count}, {finished} candidates, {self.ledger.nfe} NFE{ended})"

    @property
    def _sheet_title(self) -> str:
        return f"{self.ledger.nfe} NFE"


class Scored(Protocol):
    """A finished candidate: an Entry of a live search, or one from a folder."""

    @property
    def candidate(self) -> Candidate: ...
    @property
    def scores(self) -> dict[str, float]: ...
    @property
    def select(self) -> dict[str, float]: ...
    @property
    def held_out(self) -> dict[str, float]: ...
    @property
    def nfe(self) -> int: ...
    @property
    def seconds(self) -> float: ...


def scored_candidate(
    place: int,
    entry: Scored,
    total: float,
    kept: bool,
    told: tuple[dict[str, float], dict[str, float]] | None = None,
    broken: tuple[str, ...] = (),
) -> ScoredCandidate:
    """The candidate as plain data. told: its scores and select scores, where they are not those that it holds."""
    made, (scores, select) = entry.candidate, told or (entry.scores, entry.select)
    return ScoredCandidate(
        place, made.id, total, scores, select, entry.held_out, entry.nfe, entry.seconds, made.origin, made.parent,
        kept, broken,
    )  # fmt: skip


def objectives(names: Sequence[str], columns: Sequence[Column]) -> dict[str, int]:
    """Which scores a Pareto front is of, and which way is better: those with a weight, by its sign."""
    return {n: 1 if c.weight > 0 else -1 for n, c in zip(names, columns, strict=True) if c.weight}
