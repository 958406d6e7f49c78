"""The rules that end the search of one prompt: those of its budget, and its stop rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from genscale.engine.budget import Budget
from genscale.engine.guard import Guard
from genscale.engine.ranking import Ranking
from genscale.engine.selection import Selection
from genscale.engine.stopping import Accepted, Stop, Stopped, StopRule, Target, first_stop
from genscale.engine.verifier_roles import Roles, VerifierSet, verifier_set
from genscale.errors import UsageError


def guard_set(stop: Stop | None, timeout: float | None = None) -> VerifierSet:
    """The verifiers of the guards among the rules. timeout: as of `verifier_set`."""
    return verifier_set([g.verifier for g in stop.guards] if stop else None, "weighted", timeout)


def target_of(budget: Budget, roles: Roles) -> float | None:
    """The search total at which the budget ends a search; None without one, or if select verifiers are asked."""
    given = [] if roles.select.members else [budget.target, budget.probability]
    return min((value for value in given if value is not None), default=None)


def check_acceptance(accepts: float | None, selection: Selection) -> None:
    """UsageError: the sampler ends with the first candidate that it accepts, by its total alone."""
    if accepts is not None and selection.requires:
        raise UsageError(
            f"a sampler that accepts the first candidate good enough does not ask whether it satisfies "
            f"'{selection.requires[0]}': use another sampler, such as best_of_n, or leave require out."
        )


def stop_of(rules: Sequence[StopRule], ranks: Ranking, seen: int) -> Stopped | None:
    """The rule that ends a search, asked about the totals of the candidates that break no requirement.

    seen: how many finished candidates were asked about before.
    """
    places = [i for i, entry in enumerate(ranks.entries) if not ranks.broken(entry)]
    finals, before = [ranks.entries[i] for i in places], sum(i < seen for i in places)
    asked = [r.watching(finals) if isinstance(r, Guard) else r for r in rules]
    stopped = first_stop(asked, ranks.totals(finals), before)
    return None if stopped is None else replace(stopped, after=places[stopped.after - 1] + 1)


def search_rules(budget: Budget, stop: Stop | None, judge: VerifierSet) -> tuple[StopRule, ...]:
    """judge: the verifiers whose total the rules see. UsageError: a rule cannot be asked about their totals."""
    asked = {"a target score": budget.target, f"stop '{stop}'": stop}
    for what, rule in asked.items():
        if rule is not None and not judge.pointwise:
            raise UsageError(
                f"{what} needs scores that do not depend on the other candidates, as ranks and votes do: use the "
                "weighted ensemble."
            )
    if budget.probability is not None and not judge.probability:
        raise UsageError(
            f"p={budget.probability:g} needs one verifier, without a weight, that answers probabilities: calibrate "
            "yours with genscale calibrate-verifier."
        )
    found: list[StopRule] = [] if budget.target is None else [Target(budget.target)]
    found += [] if budget.probability is None else [Accepted(budget.probability)]
    given = stop.rules if stop else ()
    return (*found, *(replace(r, verifier=r.name) if isinstance(r, Guard) else r for r in given))
