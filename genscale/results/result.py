"""What a run gives beside its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.ledger import Ledger
from genscale.engine.search import Search
from genscale.engine.stopping import Stopped, kl_of_best
from genscale.media import Media
from genscale.protocol.particles import OWN
from genscale.protocol.population import Population

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

ROWS = 10  # of a table in a notebook


@dataclass(frozen=True, repr=False)
class SearchResult:
    """All that a search found, for every prompt.

    entries: everything that was scored, previews included, in order. stopped: why the run ended before its
    samplers did ("interrupted"), None otherwise. seed: root of every key of the run.
    """

    searches: tuple[Search, ...]
    entries: tuple[Entry, ...]
    ledger: Ledger
    budget: Budget
    seed: int
    decode: Callable[[Sequence[Entry]], Media]
    stopped: str | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(s.prompt for s in self.searches)

    @property
    def best(self) -> Entry:
        """The winner of the first prompt; `ranking(prompt)[0]` is any other's."""
        return self.ranking(0)[0]

    def ranking(self, prompt: int = 0) -> list[Entry]:
        """Finished candidates of a prompt, best first."""
        return self.searches[prompt].ranking()

    def base(self, prompt: int = 0) -> Entry | None:
        """The pipeline's own candidate, which it alone would have given; None if it was not finished."""
        return next((e for e in self.searches[prompt].finals if e.candidate.id == OWN), None)

    def total(self, entry: Entry) -> float:
        """The number that picks, of one entry; under a rank ensemble it is its rank in the whole pool.

        Of a preview, which is never picked, what the search verifiers made of it (NaN under ranks).
        """
        if not entry.final:
            return float("nan") if entry.total is None else entry.total
        search = self.searches[entry.prompt]
        return next(t for e, t in zip(search.finals, search.totals(search.finals), strict=True) if e is entry)

    def population(self, prompt: int = 0) -> Population | None:
        """The weighted candidates of a particle method; None of other samplers."""
        return self.searches[prompt].population

    def stopped_by(self, prompt: int = 0) -> Stopped | None:
        """The stop rule or target that ended a prompt's search; None where its sampler or budget came to an end."""
        return self.searches[prompt].stopped

    def kl(self, prompt: int = 0) -> dict[str, Any] | None:
        """How far the best can be from the model's own law, of samplers that draw independently; None of others.

        candidates: N that were finished. nats: log N - (N - 1) / N. bound: whether KL(best || model) is at most that;
        where the scores may end the search (a stop rule, a target), N is chosen by them, and it is not.
        """
        search = self.searches[prompt]
        if not search.independent or not search.finished:
            return None
        nats = kl_of_best(search.finished)
        return {"candidates": search.finished, "nats": nats, "bound": not search.rules}

    def media(self, entries: Sequence[Entry]) -> Media:
        """Decode entries whose latents were kept: the pipeline's own and the best (`keep`)."""
        lost = [e.candidate.id for e in entries if e.x is None]
        if lost:
            raise ValueError(
                f"the latents of candidate {lost[0]} were not kept: ask scale() for a larger keep="
            )
        return self.decode(entries)

    def curve(self, prompt: int = 0) -> list[dict[str, Any]]:
        """Best so far against cost: nfe, seconds, candidate, total and held-out report of each new best."""
        search, points, best = self.searches[prompt], [], -float("inf")
        for entry, total in zip(search.finals, search.totals(search.finals), strict=True):
            if total > best:
                best = total
                points.append(
                    {
                        "nfe": entry.nfe,
                        "seconds": entry.seconds,
                        "candidate": entry.candidate.id,
                        "total": total,
                        "held_out": entry.held_out,
                    }
                )
        return points

    # ---------------------------------------------------------------- to look at

    def plot(self, title: str = "") -> Figure:
        """Best score so far against NFE, and what held-out verifiers say of that best: a matplotlib figure.

        Of several prompts the mean with its 95 % interval, of one all candidates.
        """
        from genscale.results import result_figures

        many = len(self.prompts)
        name = "best so far" if many == 1 else f"mean best of {many} prompts, 95 % interval"
        return result_figures.plot({name: self}, title or (self.prompts[0] if many == 1 else ""))

    def sheet(self, runners: int = 3, title: str = "") -> Image.Image:
        """A contact sheet of the first prompts: base, best, and as many runners-up as `scale(keep=)` has kept."""
        from genscale.results import result_figures

        return result_figures.sheet(self, runners, title)

    def table(self, prompt: int = 0) -> list[dict[str, Any]]:
        """Finished candidates of a prompt, best first, as records (for a pandas.DataFrame, say)."""
        from genscale.results import result_figures

        return result_figures.records(self, prompt)

    def __repr__(self) -> str:
        finished = sum(s.finished for s in self.searches)
        ended = "" if self.stopped is None else f", {self.stopped}"
        return f"SearchResult({self._told}, {finished} candidates, {self.ledger.nfe} NFE{ended})"

    @property
    def _told(self) -> str:
        return "1 prompt" if len(self.prompts) == 1 else f"{len(self.prompts)} prompts"

    def _repr_html_(self) -> str:
        from genscale.report import html_table
        from genscale.results import result_figures

        if len(self.prompts) > 1:
            return html_table.table(result_figures.summaries(self), repr(self))
        shown = result_figures.records(self)
        more = f"; {len(shown) - ROWS} more candidates in .table()" if len(shown) > ROWS else ""
        return html_table.table(shown[:ROWS], f"{self.prompts[0]}: {self!r}{more}")
