"""The pipeline's own image of each prompt, to be shown beside the best: it is paid out of the budget.

A search that finishes candidate 0, whatever the scores are, has this image already. Others (particle methods, pruning)
may give it up, and it is made apart: then the search gets what the budget leaves beside one image for each prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from genscale.engine.budget import Budget
from genscale.engine.plan import Plan
from genscale.errors import AllCandidatesFailed
from genscale.protocol.particles import OWN
from genscale.results.result import SearchResult
from genscale.runs.prepared_run import PreparedRun


@dataclass(frozen=True, eq=False)
class SearchAndBase:
    """A run divided into its search and the pipeline's own image.

    run: the search, with its part of the budget. plan: of the search. whole: the budget of both, with `images` resolved
    to NFE. base_nfe: NFE a prompt that the image may cost; 0 where the search has it, or where the budget has no room.
    """

    run: PreparedRun
    plan: Plan
    whole: Budget
    base_nfe: int

    @staticmethod
    def of(run: PreparedRun) -> SearchAndBase:
        """The model is loaded. UsageError: the pipeline refuses its arguments, or the budget pays for no candidate."""
        plan = run.plan()
        whole, base = plan.budget, plan.nfe_per_candidate
        if plan.keeps_own or run.request.from_python:  # a call from Python makes no such image
            return SearchAndBase(run, plan, whole, 0)
        if whole.nfe is None and whole.verifier_calls is None:
            return SearchAndBase(run, plan, whole, base)
        nfe, calls = _without(whole.nfe, base), _without(whole.verifier_calls, _calls(run))
        too_little = (nfe is not None and nfe < base) or (calls is not None and calls < _calls(run))
        if too_little:
            return SearchAndBase(run, plan, whole, 0)
        run = replace(run, budget=replace(whole, nfe=nfe, verifier_calls=calls, images=None))
        return SearchAndBase(run, run.plan(), whole, base)

    @property
    def nfe(self) -> int | None:
        """NFE a prompt in all; an upper limit where the plan's is one."""
        return None if self.plan.nfe is None else self.plan.nfe + self.base_nfe

    def has_room(self, result: SearchResult) -> bool:
        """Whether the budget pays for one more image of each prompt."""
        nfe, calls = self.plan.nfe_per_candidate, _calls(self.run)
        spent: list[tuple[float, float]] = [(s.spent, s.calls) for s in result.searches]
        if result.pooled:  # what one prompt has not spent is there for another
            spent = [(sum(s for s, _ in spent) / len(spent), sum(c for _, c in spent) / len(spent))]
        return all(
            (self.whole.nfe is None or s + nfe <= self.whole.nfe)
            and (self.whole.verifier_calls is None or c + calls <= self.whole.verifier_calls)
            for s, c in spent
        )

    def base_of(self, result: SearchResult) -> SearchResult | None:
        """The pipeline alone; None where the search has finished or dropped all its images, was interrupted, or left
        nothing."""
        lost = [any(f.candidate.id == OWN for f in result.dropped(i)) for i in range(len(result.prompts))]
        if result.stopped is not None or all(result.base(i) or gone for i, gone in enumerate(lost)):
            return None
        if not self.has_room(result):
            return None
        alone = self.run.pipeline_alone()
        try:
            found: SearchResult = alone.scaled().search(**alone.seeded_call())
        except KeyboardInterrupt:  # the search itself is finished: its results are still written
            return None
        except AllCandidatesFailed as error:  # the pipeline alone gives no image of some prompts
            return error.result if isinstance(error.result, SearchResult) else None
        return found


def _calls(run: PreparedRun) -> int:
    """Verifier calls of one finished candidate."""
    return len(run.verifiers) + len(run.select)


def _without(limit: int | None, cost: int) -> int | None:
    return None if limit is None else limit - cost
