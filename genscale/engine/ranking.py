"""The finished candidates of one search, from best to worst."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from genscale.engine.entries import Entry
from genscale.engine.selection import Selection
from genscale.engine.verifier_roles import Roles, VerifierSet
from genscale.numerics.selection_order import keeps_own, selection_order
from genscale.protocol.particles import OWN

_Key = tuple[int, float]


class Ranking:
    """Ranks by the verifiers that pick the winner, and the rules of the choice.

    keep: how many of the best keep their latents.
    """

    def __init__(self, judge: VerifierSet, keep: int, selection: Selection | None = None) -> None:
        self.judge, self.keep, self.selection = judge, keep, selection or Selection()
        self.margin = self.selection.margin(judge.ensemble, judge.columns)
        self.entries: list[Entry] = []  # in the order in which they were finished
        self._ranked: list[tuple[_Key, Entry]] = []  # by key; not for ensembles whose totals may change

    @staticmethod
    def of(roles: Roles, keep: int) -> Ranking:
        return Ranking(roles.judge, keep, roles.selection)

    def by(self, roles: Roles) -> Ranking:
        """The same candidates in the same order, to be ranked by the judges of `roles` from here on."""
        ranking = Ranking.of(roles, self.keep)
        ranking.entries, ranking._ranked = list(self.entries), list(self._ranked)
        return ranking

    def add(self, entry: Entry) -> None:
        """Take in a finished candidate, and drop the latents of those that are no longer among the `keep` best."""
        self.entries.append(entry)
        if not self.judge.pointwise:  # totals may change later, so all candidates keep their latents
            return
        key = self._key(entry)
        at = bisect_right(self._ranked, key, key=lambda ranked: ranked[0])
        self._ranked.insert(at, (key, entry))
        for _, loser in self._ranked[self.keep : self.keep + 1] if at < self.keep else [(key, entry)]:
            if loser.candidate.id != OWN:  # the pipeline's own image is shown beside the best
                loser.x = None

    def order(self) -> list[Entry]:
        """From best to worst; of equals the one that finished first comes first."""
        if not self.entries:
            return []
        if self.judge.pointwise:
            ranked = [entry for _, entry in self._ranked]
            if self._kept_own(ranked[0]) and (own := self._own()) is not None:
                ranked.remove(own)
                ranked.insert(0, own)
            return ranked
        own = self._own()
        at = None if own is None else self.entries.index(own)
        broken = [len(self.broken(e)) for e in self.entries]
        order = selection_order(self.totals(self.entries), broken, at, self.margin)
        return [self.entries[i] for i in order]

    def totals(self, entries: Sequence[Entry]) -> list[float]:
        """Combined scores of entries."""
        return [float(t) for t in self.judge.combine(self._raw(entries))]

    def told(self, entries: Sequence[Entry]) -> list[tuple[dict[str, float], dict[str, float]]]:
        """(scores, select) of each, with similarities among these entries in place of what stands for embeddings."""
        found = [(dict(e.scores), dict(e.select)) for e in entries]
        if any(c.relative for c in self.judge.columns) and entries:
            readable = self.judge.readable(self._raw(entries))
            for (scores, select), row in zip(found, readable, strict=True):
                (select or scores).update(self.judge.named(row))
        return found

    def broken(self, entry: Entry) -> tuple[str, ...]:
        """The requirements that a finished candidate breaks."""
        return self.selection.broken({**entry.scores, **entry.select}) if self.selection.requires else ()

    @property
    def abstained(self) -> bool:
        """Whether the pipeline's own candidate is the winner because no other is better by the margin."""
        return self.margin is not None and bool(self.entries) and self._kept_own(None)

    def best(self) -> Entry | None:
        """None before the first."""
        if self._ranked and self.margin is None:
            return self._ranked[0][1]
        order = self.order()
        return order[0] if order else None

    def first(self, least: float) -> Entry | None:
        """The one that finished first of those whose search score is at least this; None if there is none."""
        return next((e for e in self.entries if e.total is not None and e.total >= least), None)

    def may_lead(self, entry: Entry) -> bool:
        """Whether a new finished candidate is, or (by ranks) may later become, the best."""
        if not self._ranked or not self.judge.pointwise:
            return True
        return self._key(entry) < self._ranked[0][0]

    def _key(self, entry: Entry) -> _Key:
        """Less is better."""
        [total] = self.totals([entry])
        return len(self.broken(entry)), -total

    def _raw(self, entries: Sequence[Entry]) -> Tensor:
        for entry in entries:
            entry.remember()
        raw = [[(e.select or e.scores)[n] for n in self.judge.names] for e in entries]
        return torch.tensor(raw, dtype=torch.float64).reshape(len(entries), len(self.judge.names))

    def _own(self) -> Entry | None:
        return None if self.margin is None else next((e for e in self.entries if e.candidate.id == OWN), None)

    def _kept_own(self, first: Entry | None) -> bool:
        """Whether the pipeline's own is kept before the first by total (None: before all)."""
        own = self._own()
        if own is None:
            return False
        some = self.entries if first is None or not self.judge.pointwise else [first, own]
        at = next(i for i, e in enumerate(some) if e is own)
        return keeps_own(self.totals(some), [len(self.broken(e)) for e in some], at, self.margin)
