"""Refuses a search that would choose between candidates without a score to choose by, or finish too few of them."""

from __future__ import annotations

from typing import Any

from genscale.engine.budget import Budget
from genscale.engine.plan import simulate
from genscale.engine.search import Search
from genscale.engine.stopping import Stop
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.key import Key
from genscale.plugins import registry
from genscale.protocol.interfaces import Sampler, SamplerHooks

CURE = 'give a verifier, such as verifier="clip" or a function (images, prompts) -> scores'


def check_choice(
    sampler: Sampler,
    process: dict[str, Any],
    budget: Budget,
    roles: Roles,
    results: int,
    stop: Stop | None = None,
) -> None:
    """UsageError if a sampler without a search or select verifier would need one, or if it finishes too few candidates.

    Too few are fewer than the `results` that are asked for a prompt. The sampler is run without a model, as for a plan.
    It needs a verifier if it asks for scores of previews, or if it finishes more than `results`: without scores the
    first would win, and what the others cost would be lost. A sampler that needs a mix (fkc) draws its result by
    weights that come from the mix, and needs no scores. Held-out verifiers only measure.
    """
    if roles.judge.members and results == 1:
        return
    name = registry.name_of("sampler", type(sampler))
    search = Search.open(0, "", sampler, Key((0,)), budget, roles, results=results, stop=stop, **process)
    endless = (
        SamplerHooks.of(sampler).cost(search.process) is None
        and search.nfe_left is None
        and search.process.open_ended
    )
    for preview in simulate(search):
        if roles.judge.members:
            if search.finished >= results:
                return
        elif preview:
            raise UsageError(
                f"{name} compares candidates during the run and no verifier was given to score them: {CURE}."
            )
        if endless and search.finished > results:
            break
    if 1 < results > search.finished:
        raise UsageError(
            f"{name} would finish {search.finished} candidates a prompt, fewer than the {results} images or videos "
            "that are asked for: allow more candidates or a larger budget, or ask for fewer (num_images_per_prompt)."
        )
    if roles.judge.members:
        return
    if search.finished > results and "mix" not in getattr(sampler, "needs", ()):
        count = f"more than {results}" if endless else str(search.finished)
        raise UsageError(
            f"{name} would finish {count} candidates a prompt to return {results}, and no verifier was given to choose "
            f"by: {CURE}, or ask for all of them (num_images_per_prompt)."
        )
