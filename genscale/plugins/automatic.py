"""The sampler named "auto": which one stands for it."""

from __future__ import annotations

AUTO = "auto"
BY_PROBABILITY, OTHERWISE = "accept_reject", "best_of_n"
ABOUT = f"{BY_PROBABILITY} where one verifier answers a probability and steers alone, {OTHERWISE} otherwise"


def sampler_for(name: str, probability: bool) -> str:
    """The name itself, or for "auto" the sampler that it stands for.

    probability: whether the search's total is P(right) (`genscale.protocol.interfaces.Process.probability`).
    """
    if name != AUTO:
        return name
    return BY_PROBABILITY if probability else OTHERWISE
