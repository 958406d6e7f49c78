"""The totals by which a run that is in a folder ranked its candidates, from its request and the head of its archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from genscale.engine.embeddings import similarity
from genscale.engine.ensembles import CATEGORY, WEIGHTED, Column, joined
from genscale.engine.prompt_category import ByCategory, category_weights, checked
from genscale.engine.selection import Selection
from genscale.results.search_outcome import objectives
from genscale.runs.request import Request

Told = tuple[float, dict[str, float], dict[str, float], tuple[str, ...]]
"""Of a finished candidate: its total, its scores, its select scores, and what it breaks."""


@dataclass(frozen=True)
class SavedTotals:
    """The ensemble of the verifiers that picked the winner, and the rules of the choice.

    selects: whether these were select verifiers.
    """

    ensemble: str
    names: tuple[str, ...]
    columns: tuple[Column, ...]
    selects: bool
    selection: Selection
    by_category: ByCategory

    @staticmethod
    def of(request: Request, heading: Mapping[str, Any]) -> SavedTotals:
        """KeyError, TypeError, ValueError: the heading was changed by hand."""
        roles = heading["verifiers"]
        members = roles["select"] or roles["search"]
        names = tuple(name for name, _ in members)
        stored = heading.get("columns")
        columns = (
            [Column(weight) for _, weight in members] if stored is None else [Column(**c) for c in stored]
        )
        given = checked(request.category_weights) if request.category_weights else {}
        selection = Selection.of(request.require or None, request.abstain)
        return SavedTotals(request.ensemble, names, tuple(columns), bool(roles["select"]), selection, given)

    @property
    def margin(self) -> float | None:
        """How much better than the base the winner had to be; None: not at all."""
        return self.selection.margin(self.ensemble, self.columns)

    def objectives(self, prompt: str) -> dict[str, int]:
        """The scores that the Pareto front of a prompt is of."""
        return objectives(self.names, self._columns(prompt))

    def of_prompt(
        self, prompt: str, finals: Sequence[tuple[dict[str, float], dict[str, float], float]]
    ) -> list[Told]:
        """finals: scores, select scores and stored total of each finished candidate of the prompt."""
        if not finals:
            return []
        raw = torch.tensor(
            [[(select or scores)[name] for name in self.names] for scores, select, _ in finals],
            dtype=torch.float64,
        ).reshape(len(finals), len(self.names))
        for k, column in enumerate(self.columns):
            if column.relative:
                raw[:, k] = similarity(raw[:, k])
        totals = [total for *_, total in finals]
        if self.selects or self.ensemble != WEIGHTED or any(c.relative for c in self.columns):
            totals = joined(self.ensemble, raw, self._columns(prompt)).tolist()
        found: list[Told] = []
        for total, (scores, select, _), row in zip(totals, finals, raw.tolist(), strict=True):
            readable = dict(zip(self.names, row, strict=True))
            scores = {**scores, **({} if select else readable)}
            select = {**select, **readable} if select else {}
            found.append((total, scores, select, self.selection.broken({**scores, **select})))
        return found

    def _columns(self, prompt: str) -> list[Column]:
        if self.ensemble != CATEGORY:
            return list(self.columns)
        factors = category_weights(prompt, self.names, self.by_category)
        return [replace(c, weight=c.weight * f) for c, f in zip(self.columns, factors, strict=True)]
