"""Verifiers in their roles.

The search verifiers steer the sampler, the select verifiers pick the winner (by default the search verifiers do), and
the held-out verifiers only measure: the search never sees their scores. Scores of different roles are never mixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from genscale.engine.embeddings import similarity, vector_of
from genscale.engine.ensembles import CATEGORY, VOTE, WEIGHTED, Column, check_columns, joined, pointwise
from genscale.engine.finite_numbers import kind
from genscale.engine.ledger import Ledger
from genscale.engine.prompt_category import ByCategory, category_weights, checked
from genscale.engine.selection import Selection
from genscale.engine.verifier_calls import Left, unlimited
from genscale.engine.weighted_verifier import WeightedVerifier as WeightedVerifier
from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import limits, registry
from genscale.plugins.limits import shown
from genscale.protocol.calibration import Calibration


@dataclass(frozen=True)
class VerifierSet:
    """The verifiers of one role, and how their scores are combined to one number.

    fixed: what the ensemble knows of the verifiers, where it is not read off them. by_category: weights of the ensemble
    "category", as of `prompt_category.checked`.
    """

    members: tuple[WeightedVerifier, ...] = ()
    ensemble: str = WEIGHTED
    fixed: tuple[Column, ...] = ()
    by_category: ByCategory = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [m.name for m in self.members]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"verifier '{name}' is asked for twice in one role: name it once.")
        for member in self.members:
            if not math.isfinite(member.weight):
                raise UsageError(
                    f"verifier '{member.name}' has weight {member.weight}: give a finite number."
                )
        check_columns(self.ensemble, self.columns, self.names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.members)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Prepare every verifier before anything is spent, as `WeightedVerifier.prepare`."""
        for member in self.members:
            member.prepare(prompts, device)

    def named(self, raw: Tensor) -> dict[str, float]:
        """One row of raw scores [verifiers], by verifier."""
        return dict(zip(self.names, raw.tolist(), strict=True))

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the ensemble knows of each verifier."""
        return self.fixed or tuple(m.column for m in self.members)

    @property
    def pointwise(self) -> bool:
        """Whether a candidate's total does not depend on the other candidates."""
        return pointwise(self.ensemble, self.columns)

    @property
    def probability(self) -> bool:
        """Whether the combined score is a probability: one verifier counts, of weight 1, and answers one."""
        alone = self._alone
        return alone is not None and bool(getattr(alone.verifier, "answers_probability", False))

    @property
    def calibration(self) -> Calibration | None:
        """How the probabilities of the combined score behave; None if that is not known."""
        alone = self._alone
        return (
            getattr(alone.verifier, "calibration", None) if alone is not None and self.probability else None
        )

    @property
    def _alone(self) -> WeightedVerifier | None:
        """The verifier whose score is the combined score as it is; None if there is none."""
        counted = [m for m in self.members if m.weight]
        return (
            counted[0] if len(counted) == 1 and counted[0].weight == 1 and self.ensemble == WEIGHTED else None
        )

    def combine(self, raw: Tensor) -> Tensor:
        """Totals [n] of raw scores [n, verifiers]."""
        return self.join(self.readable(raw))

    def join(self, readable: Tensor) -> Tensor:
        """Totals [n] of scores [n, verifiers], in which no number stands for an embedding."""
        return joined(self.ensemble, readable, self.columns)

    def readable(self, raw: Tensor) -> Tensor:
        """Raw scores [n, verifiers] of a set of candidates, with similarities for what stands for embeddings."""
        if not any(c.relative for c in self.columns):
            return raw
        columns = zip(raw.T, self.columns, strict=True)
        return torch.stack([similarity(s) if c.relative else s for s, c in columns], dim=1)

    def vectors(self, row: Tensor) -> dict[str, Tensor]:
        """The embeddings by verifier that one row of raw scores [verifiers] stands for."""
        each = zip(self.names, row.tolist(), self.columns, strict=True)
        return {name: vector_of(number) for name, number, column in each if column.relative}

    def for_prompt(self, prompt: str) -> VerifierSet:
        """With the weights of this prompt's category, under the ensemble "category"."""
        if self.ensemble != CATEGORY or not self.members:
            return self
        factors = category_weights(prompt, self.names, self.by_category)
        columns = zip(self.columns, factors, strict=True)
        return replace(self, fixed=tuple(replace(c, weight=c.weight * f) for c, f in columns))

    def score(self, media: Media, prompts: Sequence[str], labels: Sequence[str], ledger: Ledger) -> Tensor:
        """Raw scores float64 [n, verifiers]. VerifierError: one of them is not finite."""
        return self._columns(WeightedVerifier.score, media, prompts, labels, ledger)

    def raw_scores(
        self,
        media: Media,
        prompts: Sequence[str],
        labels: Sequence[str],
        ledger: Ledger,
        left: Left = unlimited,
        progress: Sequence[float] | None = None,
    ) -> Tensor:
        """The same, but a score may be NaN or infinite.

        left: see genscale.engine.verifier_calls. progress: see WeightedVerifier.raw_scores.
        """
        score = partial(WeightedVerifier.raw_scores, left=left, progress=progress)
        return self._columns(score, media, prompts, labels, ledger)

    def score_graph(
        self,
        media: Media,
        prompts: Sequence[str],
        labels: Sequence[str],
        ledger: Ledger,
        left: Left = unlimited,
    ) -> Tensor:
        """`raw_scores` with the graph to `media.pixels`. UsageError: a verifier is not differentiable."""
        return self._columns(partial(WeightedVerifier.score_graph, left=left), media, prompts, labels, ledger)

    def fault(self, row: Tensor) -> tuple[str, str] | None:
        """What is not finite in one row of raw scores [verifiers], or in their weighted sum: where, and what."""
        for member, score in zip(self.members, row.tolist(), strict=True):
            if not math.isfinite(score):
                return f"verifier {member.name}", kind(score)
        total = float(self.combine(row[None])[0])
        return None if math.isfinite(total) else ("weighted sum of the scores", kind(total))

    def check_differentiable(self) -> None:
        """UsageError if the combined score has no gradient, whatever the images are."""
        if not self.members:
            raise UsageError("a gradient needs a verifier's score: name a verifier for the search.")
        relative = [n for n, c in zip(self.names, self.columns, strict=True) if c.relative]
        if relative:
            raise UsageError(
                f"verifier '{relative[0]}' compares candidates with each other and has no gradient: search with "
                "another, or with another sampler."
            )
        if self.ensemble != WEIGHTED:
            raise UsageError(
                f"ensemble '{self.ensemble}' has no gradient: use the weighted ensemble, gradient=none of das and "
                "svdd, or another sampler."
            )

    def _columns(
        self,
        score: Callable[..., Tensor],
        media: Media,
        prompts: Sequence[str],
        labels: Sequence[str],
        ledger: Ledger,
    ) -> Tensor:
        columns = []
        for member in self.members:
            with ledger.clock("verify"):
                columns.append(score(member, media, prompts, labels))
            ledger.count_scores(member.name, len(labels))
        return torch.stack(columns, dim=1) if columns else torch.zeros(len(labels), 0, dtype=torch.float64)


@dataclass(frozen=True)
class Roles:
    """The verifiers of each role: search steers, select picks (search if it is empty), held_out only measures.

    guard: those of stop rules that watch the leaders (genscale.engine.guard). selection: rules of the choice.
    """

    search: VerifierSet = VerifierSet()
    select: VerifierSet = VerifierSet()
    held_out: VerifierSet = VerifierSet()
    guard: VerifierSet = VerifierSet()
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        for role in (self.held_out, self.guard):
            for name, column in zip(role.names, role.columns, strict=True):
                if column.relative:
                    raise UsageError(
                        f"verifier '{name}' compares all candidates with each other, so it cannot be held out or be a "
                        "guard: search or select with it."
                    )
        scoring = [(s.names, s.columns) for s in (self.search, self.select)]
        known = {n: c for names, columns in scoring for n, c in zip(names, columns, strict=True)}
        self.selection.check(known, self.judge.ensemble, self.judge.columns)

    def each(self, change: Callable[[VerifierSet], VerifierSet]) -> Roles:
        """With the verifiers of every role changed."""
        search, select, held_out, guard = map(change, self.all)
        return Roles(search, select, held_out, guard, self.selection)

    def by_category(self, given: Any) -> Roles:
        """With {category: {verifier: weight}} of the ensemble "category". UsageError: it is no such table, or the
        ensemble is another."""
        if self.judge.ensemble != CATEGORY:
            raise UsageError(f"category weights go with ensemble='{CATEGORY}': give both, or neither.")
        table = checked(given, [*self.search.names, *self.select.names])
        return self.each(lambda verifiers: replace(verifiers, by_category=table))

    def for_prompt(self, prompt: str) -> Roles:
        """With the weights of this prompt's category, where the ensemble asks for them."""
        if CATEGORY not in (self.search.ensemble, self.select.ensemble):
            return self
        return replace(self, search=self.search.for_prompt(prompt), select=self.select.for_prompt(prompt))

    @property
    def named(self) -> dict[str, VerifierSet]:
        """The verifiers by role."""
        return dict(zip(("search", "select", "held_out", "guard"), self.all, strict=True))

    @property
    def all(self) -> tuple[VerifierSet, ...]:
        """In the order of the fields."""
        return self.search, self.select, self.held_out, self.guard

    @property
    def judge(self) -> VerifierSet:
        """The verifiers that pick the winner."""
        return self.select if self.select.members else self.search

    @property
    def judging(self) -> bool:
        """Whether there is any verifier, so that images must be decoded."""
        return any(verifiers.members for verifiers in self.all)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Prepare the verifiers of all roles before anything is spent, as `WeightedVerifier.prepare`."""
        for verifiers in self.all:
            verifiers.prepare(prompts, device)

    @property
    def calls(self) -> int:
        """Verifier calls of one finished candidate, as the budget counts them."""
        return len(self.search.members) + len(self.select.members)


def verifier_set(verifiers: Any, ensemble: str, timeout: float | None = None) -> VerifierSet:
    """The verifiers of one role, from None, a name, a callable, a pair (verifier, weight), or a list of these.

    timeout: seconds of one call, for those without a limit of their own.
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise UsageError(f"verifier_timeout={timeout} must be a number of seconds above 0.")
    if verifiers is None:
        return VerifierSet((), ensemble)
    if not isinstance(verifiers, list):
        verifiers = [verifiers]
    made = VerifierSet(tuple(_weighted_verifier(v, timeout) for v in verifiers), ensemble)
    for member in made.members:
        answers = bool(getattr(member.verifier, "gives_answers", False))
        if answers and ensemble != VOTE:
            raise UsageError(
                f"verifier '{member.name}' gives answers, which are counted: use ensemble='{VOTE}'."
            )
        if ensemble == VOTE and not answers and member.weight:
            raise UsageError(
                f"a vote counts equal answers, and verifier '{member.name}' gives scores: use answers, or another "
                "ensemble."
            )
        if ensemble == VOTE and member.weight not in (0, 1):
            raise UsageError(f"a vote has no weights: give verifier '{member.name}' none.")
    return made


def _weighted_verifier(verifier: Any, timeout: float | None) -> WeightedVerifier:
    weight = 1.0
    if isinstance(verifier, tuple):
        if len(verifier) != 2 or not isinstance(verifier[1], Real) or isinstance(verifier[1], bool):
            raise UsageError(f"{shown(verifier)} is no pair (verifier, weight): give a number as weight.")
        verifier, weight = verifier
    if isinstance(verifier, str):
        return WeightedVerifier(verifier, registry.make("verifier", verifier, {}), float(weight), timeout)
    if not callable(verifier) or isinstance(verifier, type):
        raise UsageError(
            f"{verifier!r} is not a verifier: give a name or a callable (media, prompts) -> scores."
        )
    limits.check_plugin(f"verifier {type(verifier).__name__}", verifier)
    name = getattr(verifier, "name", None) or getattr(verifier, "__name__", None) or type(verifier).__name__
    return WeightedVerifier(str(name), verifier, float(weight), timeout)
