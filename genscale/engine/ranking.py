"""The finished candidates of one search, from best to worst."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch

from genscale.engine.archive import Entry
from genscale.engine.verifier_roles import VerifierSet
from genscale.protocol.particles import OWN


class Ranking:
    """Ranks by the verifiers that pick the winner. keep: how many of the best keep their latents."""

    def __init__(self, judge: VerifierSet, keep: int) -> None:
        self.judge, self.keep = judge, keep
        self.entries: list[Entry] = []  # in the order in which they were finished
        self._ranked: list[tuple[float, Entry]] = []  # by total; not for rank ensembles

    def by(self, judge: VerifierSet) -> Ranking:
        """The same candidates in the same order, to be ranked by `judge` from here on."""
        ranking = Ranking(judge, self.keep)
        ranking.entries, ranking._ranked = list(self.entries), list(self._ranked)
        return ranking

    def add(self, entry: Entry) -> None:
        """Take in a finished candidate, and drop the latents of those that are no longer among the `keep` best."""
        self.entries.append(entry)
        if not self.judge.pointwise:  # ranks may change later, so all candidates keep their latents
            return
        [total] = self.totals([entry])
        at = bisect_right(self._ranked, -total, key=lambda ranked: -ranked[0])
        self._ranked.insert(at, (total, entry))
        for _, loser in self._ranked[self.keep : self.keep + 1] if at < self.keep else [(total, entry)]:
            if loser.candidate.id != OWN:  # the pipeline's own image is shown beside the best
                loser.x = None

    def order(self) -> list[Entry]:
        """From best to worst; of equals the one that finished first comes first."""
        if self.judge.pointwise:
            return [entry for _, entry in self._ranked]
        if not self.entries:
            return []
        totals = self.totals(self.entries)
        order = sorted(range(len(totals)), key=lambda i: -totals[i])
        return [self.entries[i] for i in order]

    def totals(self, entries: Sequence[Entry]) -> list[float]:
        """Combined scores of entries."""
        raw = torch.tensor(
            [[(e.select or e.scores)[n] for n in self.judge.names] for e in entries], dtype=torch.float64
        ).reshape(len(entries), len(self.judge.names))
        return [float(t) for t in self.judge.combine(raw)]

    def best(self) -> Entry | None:
        """None before the first."""
        if self._ranked:
            return self._ranked[0][1]
        order = self.order()
        return order[0] if order else None

    def first(self, least: float) -> Entry | None:
        """The one that finished first of those whose search score is at least this; None if there is none."""
        return next((e for e in self.entries if e.total is not None and e.total >= least), None)

    def may_lead(self, entry: Entry) -> bool:
        """Whether a new finished candidate is, or (by ranks) may later become, the best."""
        best = self.best()
        if best is None or not self.judge.pointwise:
            return True
        old, new = self.totals([best, entry])
        return new > old
