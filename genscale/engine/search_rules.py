"""The rules that end the search of one prompt: those of its budget, and its stop rules."""

from __future__ import annotations

from genscale.engine.budget import Budget
from genscale.engine.stopping import Accepted, Stop, StopRule, Target
from genscale.engine.verifier_roles import VerifierSet
from genscale.errors import UsageError


def search_rules(budget: Budget, stop: Stop | None, judge: VerifierSet) -> tuple[StopRule, ...]:
    """judge: the verifiers whose total the rules see. UsageError: a rule cannot be asked about their totals."""
    asked = {"a target score": budget.target, f"stop '{stop}'": stop}
    for what, rule in asked.items():
        if rule is not None and not judge.pointwise:
            raise UsageError(
                f"{what} needs scores that do not depend on the other candidates, as ranks do: use the weighted "
                "ensemble."
            )
    if budget.probability is not None and not judge.probability:
        raise UsageError(
            f"p={budget.probability:g} needs one verifier, without a weight, that answers probabilities: calibrate "
            "yours with genscale calibrate-verifier."
        )
    found: list[StopRule] = [] if budget.target is None else [Target(budget.target)]
    found += [] if budget.probability is None else [Accepted(budget.probability)]
    return (*found, *(stop.rules if stop else ()))
