"""Views of a search result: figure, contact sheet, tables; the same for a live result and one read from a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from genscale.report import contact_sheet, html_table, pareto_plot, score_curves
from genscale.report.prompt_summary import (
    ROWS,
    RUNNERS_UP,
    PromptSummary,
    ScoredCandidate,
    candidate_records,
    curve_name,
    curve_panels,
    curve_records,
    prompt_records,
    sheet_row,
)
from genscale.report.score_curves import CurvePanel, CurveTurn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from genscale.media import Media

LINES = 10  # rows of a table in a notebook, at most

C = TypeVar("C")  # a candidate, as its owner has it
Judges = tuple[str, tuple[tuple[str, float], ...]]
"""The ensemble, and the names and weights of the verifiers that rank."""


class SearchReport(ABC, Generic[C]):
    """What can be shown of a search, from its summaries and its decoded candidates."""

    seed: int | None

    @property
    @abstractmethod
    def prompts(self) -> tuple[str, ...]: ...

    @property
    @abstractmethod
    def judges(self) -> Judges:
        """What the candidates were ranked by."""

    @property
    @abstractmethod
    def limit(self) -> str:
        """The budget as text, "none" without one."""

    @property
    @abstractmethod
    def base_nfe(self) -> float | None:
        """NFE of the pipeline alone, where it is known."""

    @property
    @abstractmethod
    def wall_seconds(self) -> float | None:
        """What the search took."""

    @abstractmethod
    def ranking(self, prompt: int = 0) -> list[C]:
        """Finished candidates of a prompt, best first."""

    @abstractmethod
    def base(self, prompt: int = 0) -> C | None:
        """The pipeline's own candidate, which it alone would have given; None if it was not finished."""

    @property
    def best(self) -> C:
        """The winner of the first prompt; `ranking(prompt)[0]` is any other's."""
        return self.ranking(0)[0]

    @abstractmethod
    def summary(self, prompt: int = 0) -> PromptSummary:
        """One prompt's candidates and scores as plain data."""

    @abstractmethod
    def media_of(self, prompt: int, candidates: Sequence[ScoredCandidate]) -> Media:
        """Images or videos of candidates whose latents are kept."""

    @property
    def summaries(self) -> tuple[PromptSummary, ...]:
        return tuple(self.summary(i) for i in range(len(self.prompts)))

    def curve(self, prompt: int = 0) -> list[dict[str, Any]]:
        """Best so far against cost: nfe, seconds, candidate, total and held-out scores of each new best."""
        return curve_records(self.summary(prompt))

    def plot(self, title: str = "") -> Figure:
        """Best score so far against NFE, and the held-out scores of that best: a matplotlib figure.

        Of several prompts the mean with its 95 % interval, of one all candidates. Of independent draws also the curve
        that pure noise with the spread of the scores would give; and where a held-out score turns down.
        """
        title = title or (self.prompts[0] if len(self.prompts) == 1 else "")
        return score_curves.figure(self._panels, title)

    def turning_points(self) -> list[CurveTurn]:
        """For each held-out verifier, where its mean over prompts is highest along the search, with a 95 % interval,
        and whether it has turned down since. Empty for fewer than 5 prompts.
        """
        return [turn for panel in self._panels for turn in panel.turns()]

    @property
    def _panels(self) -> list[CurvePanel]:
        return curve_panels({curve_name(len(self.prompts)): self.summaries})

    @abstractmethod
    def pareto(self, prompt: int = 0) -> list[C]:
        """Finished candidates of a prompt that no other dominates in the scores that pick the winner, in the order they
        were scored: none is at least as good in all of them and better in one."""

    def pareto_plot(self, title: str = "") -> Figure:
        """The first prompts' candidates by each pair of the scores that pick the winner, with the Pareto front.

        ValueError: fewer than two scores pick it.
        """
        return pareto_plot.figure(self.summaries, title)

    def sheet(self, runners: int = RUNNERS_UP, title: str = "") -> Image.Image:
        """A contact sheet of the first prompts: base, best and so many runners-up, as far as latents are kept."""
        rows = []
        for i in range(min(len(self.prompts), ROWS)):
            summary = self.summary(i)
            if shown := summary.to_show(runners):
                rows.append(sheet_row(summary, shown, list(self.media_of(i, shown))))
        if not rows:
            raise ValueError(
                "no prompt has a finished candidate whose latents were kept: there is nothing to show"
            )
        return contact_sheet.sheet(rows, title or self._sheet_title)

    def table(self, prompt: int = 0) -> list[dict[str, Any]]:
        """Finished candidates of a prompt, best first, as records (for a pandas.DataFrame, say)."""
        return candidate_records(self.summary(prompt))

    @property
    def _sheet_title(self) -> str:
        return f"{sum(s.spent for s in self.summaries)} NFE"

    def _repr_html_(self) -> str:
        if len(self.prompts) > 1:
            return html_table.table(prompt_records(self.summaries), repr(self))
        shown = self.table()
        more = f"; {len(shown) - LINES} more candidates in .table()" if len(shown) > LINES else ""
        return html_table.table(shown[:LINES], f"{self.prompts[0]}: {self!r}{more}")
