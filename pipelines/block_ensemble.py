"""`genscale.block_ensemble`: HEX, texts of several block lengths that vote on the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from genscale.engine.ensembles import VOTE
from genscale.errors import UsageError
from genscale.pipelines.black_box import ScaledGenerator
from genscale.pipelines.scale import Scaled, scale
from genscale.plugins import registry

BLOCK_LENGTHS = (8, 16, 32, 64, 128)  # Lee et al. 2025, for 256 tokens
SEEDS, TEMPERATURE = 5, 0.9


def block_ensemble(
    pipe: Any,
    read: Callable[[str], str | None] | None = None,
    block_lengths: Sequence[int] = BLOCK_LENGTHS,
    seeds: int = SEEDS,
    temperature: float | None = TEMPERATURE,
    **settings: Any,
) -> Scaled | ScaledGenerator:
    """HEX (Lee et al. 2025, "Test-Time Scaling in Diffusion LLMs via Hidden Semi-Autoregressive Experts", arXiv
    2510.05040): texts of several block lengths, several of each, and a majority vote on the answer.

    A masked text model that fills in block after block answers differently with each block length, and no length is the
    best for all prompts. The winner is a text with the answer of most; of answers with as many votes, the one that the
    smallest block length gave, the first that it gave. `.search.total(entry)` is a candidate's number of votes.

    pipe: `diffusers.LLaDA2Pipeline`, or any function that returns a text and takes a prompt, `block_length` and a
        generator or seed.
    read: from a text to its answer, or to None where it has none, which gets no vote. None: the whole text, without
        spaces at its ends.
    block_lengths: different whole numbers above 0; (8, 16, 32, 64, 128) for 256 tokens, as published, and (4, ..., 64)
        for 128, (16, ..., 256) for 512. seeds: texts of each, 5 as published.
    temperature: of every call, 0.9 as published; above 0, as all texts of one length are the same at 0. None: that of
        the call.
    settings: further ones of `genscale.scale`, such as `out=`. A budget makes fewer texts, as many of each length.

    Cost: len(block_lengths) * seeds calls. It is `scale` with arms, `allocate="in_order"`, the verifier `answers` and
    `ensemble="vote"`. UsageError: a value is out of its range.
    """
    lengths = sorted(block_lengths)
    if (
        not lengths
        or any(not isinstance(n, int) or n < 1 for n in lengths)
        or len(set(lengths)) < len(lengths)
    ):
        raise UsageError(f"block_lengths={tuple(block_lengths)} must be different whole numbers above 0.")
    if not isinstance(seeds, int) or seeds < 1:
        raise UsageError(f"seeds={seeds} must be a whole number above 0.")
    if temperature is not None and not temperature > 0:
        raise UsageError(
            f"temperature={temperature} would make all texts of one block length the same: give one above 0."
        )
    hot = {} if temperature is None else {"temperature": temperature}
    return scale(
        pipe,
        "arms",
        registry.make("verifier", "answers", {"read": read}),
        ensemble=VOTE,
        arms=[{"block_length": n, **hot} for n in lengths],
        allocate="in_order",
        candidates=len(lengths) * seeds,
        **settings,
    )
