"""One budget for all prompts of a run: who gets the next wave.

Of every search the budget of one prompt goes into a common purse. A sampler that can end at any wave says so by `Ask`
(genscale.protocol.queries), and gets no more than it was granted. Grants are made in rounds: a round is decided when
every search that has not ended waits with an Ask. So it is decided from the same knowledge whatever the batch size, and
again in a resumed run, which finds the answers in the archive.

1. Prompts that have not finished as many candidates as the call returns, and do not keep what that takes, come first,
   each within an even share of the budget. While there are any, no other gets more.
2. Then a round hands out as many units as searches ask, at most 16: one by one to the prompt whose next unit is
   expected to add most for its NFE (genscale.engine.pool_gains). If one search asks alone, it gets all that it asks.
3. What a search was granted and did not use goes back into the purse. When nothing is left that pays for a unit of any
   search, all of them find the budget exhausted.

On known laws of independent draws rule 2 is optimal: the expected gain of one more draw never rises, so that to take
the largest first is the best allocation of a round, and with one unit a round the best sequential one (an exchange
argument: a draw with a larger gain can be moved before any other). tests/test_pool.py compares it with enumeration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from genscale.engine.budget import Budget
from genscale.engine.pool_gains import Gain, Gains, Seen, gains_for
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles
from genscale.errors import BudgetExhausted, UsageError
from genscale.plugins import registry
from genscale.protocol.interfaces import Sampler, SamplerHooks
from genscale.protocol.queries import Ask

TOGETHER = 16
"""Units of one round, at most: as many rows as a batch has by default."""


@dataclass(frozen=True)
class Purse:
    """The shared budget. searches: opened with `pool`. gains: how gains are estimated; None: as suits the verifiers.

    together: units of one round, at most.
    """

    searches: Sequence[Search]
    gains: Gains | None = None
    together: int = TOGETHER

    def round(self) -> bool:
        """Answer the Asks of all searches that wait; False if none does. No search may wait with another query."""
        asking = [s for s in self.searches if isinstance(s.query, Ask)]
        ended = [s for s in asking if s.ended_early]
        unfinished = [s for s in asking if len(s.finals) < s.results and not _asked(s).keep]
        for search in asking:
            _give_back(search)
        if ended:
            _deny(ended)
        elif unfinished:
            self._finish_first(unfinished)
        elif asking:
            self._share(asking)
        return bool(asking)

    def left(self) -> tuple[int | None, int | None]:
        """NFE and verifier calls that are not granted; None without a limit."""
        nfe = [s.budget.nfe for s in self.searches]
        calls = [s.budget.verifier_calls if s.roles.calls else None for s in self.searches]
        held = [
            (s.spent, s.calls)
            if s.query is None or s.allowance is None
            else (s.allowance.nfe, s.allowance.calls)
            for s in self.searches
        ]
        return (
            None if None in nfe else sum(n or 0 for n in nfe) - sum(h[0] for h in held),
            None if None in calls else sum(c or 0 for c in calls) - sum(h[1] for h in held),
        )

    def _finish_first(self, unfinished: Sequence[Search]) -> None:
        """A unit for each result that a prompt lacks, within its even share. If that pays for none, they are denied."""
        granted = False
        for search in unfinished:
            ask = _asked(search)
            share = (
                _rest(search.budget.nfe, search.spent),
                _rest(search.budget.verifier_calls, search.calls),
            )
            n = min(_payable(ask, share), _payable(ask, self.left()), search.results - len(search.finals))
            if n > 0:
                _grant(search, n)
                granted = True
        if not granted:
            _deny(unfinished)

    def _share(self, asking: Sequence[Search]) -> None:
        """Grant the units of one round where the expected gains are largest."""
        asks, left = [_asked(s) for s in asking], self.left()
        alone = len(asking) == 1
        units = asks[0].most if alone else min(len(asking), self.together)
        gains, counts = self._gains(asking), [0] * len(asking)
        for _ in range(units):
            open_ = [i for i, ask in enumerate(asks) if counts[i] < ask.most and _payable(ask, left) > 0]
            if not open_:
                break
            # Of equals the one that has spent less comes first, then the first.
            best = max(
                open_,
                key=lambda i: (
                    gains[i](counts[i] + 1) / _price(asking[i]),
                    -asking[i].spent - counts[i] * asks[i].nfe,
                    -i,
                ),
            )
            counts[best] += 1
            left = (_rest(left[0], asks[best].nfe), _rest(left[1], asks[best].calls))
        if not any(counts):
            _deny(asking)
        for search, n in zip(asking, counts, strict=True):
            if n > 0:
                _grant(search, n)

    def _gains(self, asking: Sequence[Search]) -> list[Gain]:
        """The gains of the searches that ask, estimated from what all have found."""
        seen = [
            Seen(tuple(s.totals(s.finals)), s.allowance.units if s.allowance else 0) for s in self.searches
        ]
        estimate = self.gains or gains_for(asking[0].roles.judge)
        found = {id(s): gain for s, gain in zip(self.searches, estimate(seen), strict=True)}
        return [found[id(s)] for s in asking]


def check_pool(sampler: Sampler, budget: Budget, roles: Roles) -> None:
    """UsageError for a search whose prompts cannot share a budget."""
    name = registry.name_of("sampler", type(sampler))
    if not SamplerHooks.of(sampler).asks:
        able = [n for n, p in registry.found("sampler").items() if _may_ask(p)]
        raise UsageError(
            f"prompts cannot share a budget (pool) with {name} as it is set here, which plans its search before it "
            f"begins: leave pool away, or use one of {', '.join(able)}."
        )
    if budget.nfe is None and budget.images is None and (budget.verifier_calls is None or not roles.calls):
        raise UsageError(
            f"pool shares a budget between the prompts, and budget '{budget}' has nothing to share: give one such as "
            "4images, 480nfe or 32calls (a prompt)."
        )
    if not roles.judge.members or not roles.judge.pointwise:
        raise UsageError(
            "pool compares the scores of different prompts, which needs a verifier, and no ranks: give a verifier, or "
            "use the weighted ensemble."
        )


def _may_ask(plugin: EntryPoint) -> bool:
    """Whether a sampler asks, at least with some options; False of one that cannot be imported."""
    try:
        return bool(getattr(plugin.load(), "asks", False))
    except Exception:
        return False


def _asked(search: Search) -> Ask:
    assert isinstance(search.query, Ask)
    return search.query


def _give_back(search: Search) -> None:
    """Take what the search has not spent out of its allowance, but for what it keeps."""
    allowance, keep = search.allowance, _asked(search).keep
    assert allowance is not None
    allowance.nfe = min(allowance.nfe, search.spent + keep)
    allowance.calls = min(allowance.calls, search.calls + (search.roles.calls if keep else 0))


def _grant(search: Search, units: int) -> None:
    ask, allowance = _asked(search), search.allowance
    assert allowance is not None
    allowance.nfe += units * ask.nfe
    allowance.calls += units * ask.calls
    allowance.units += units
    search.send(units)


def _deny(searches: Sequence[Search]) -> None:
    for search in searches:
        search.throw(BudgetExhausted())


def _payable(ask: Ask, left: tuple[int | None, int | None]) -> int:
    """How many units `left` (NFE, verifier calls) pays for, at most as many as are asked for."""
    pairs = zip((ask.nfe, ask.calls), left, strict=True)
    return min([ask.most, *(limit // price for price, limit in pairs if limit is not None and price > 0)])


def _price(search: Search) -> float:
    """What a unit of the search costs: the mean of those so far, in NFE, or calls where nothing else is limited."""
    units = search.allowance.units if search.allowance else 0
    spent = search.calls if search.budget.nfe is None else search.spent
    ask = _asked(search)
    return max(spent / units if units else (ask.calls if search.budget.nfe is None else ask.nfe), 1e-9)


def _rest(limit: int | None, taken: int) -> int | None:
    return None if limit is None else limit - taken
