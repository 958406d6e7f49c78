"""The sampler named "auto": which one stands for it."""

from __future__ import annotations

AUTO = "auto"
ABOUT = "accept_reject where one verifier answers a probability and steers alone, best_of_n otherwise"


def sampler_for(name: str, probability: bool) -> str:
    """The name itself, or for "auto" the sampler that it stands for.

    probability: whether the search's total is P(right) (`genscale.protocol.interfaces.Process.probability`).
    """
    if name != AUTO:
        return name
    return "accept_reject" if probability else "best_of_n"
