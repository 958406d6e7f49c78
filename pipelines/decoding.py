"""Clean latents to pixels by a pipeline's own tail, without a search: of a run that is over, or was killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from genscale.media import Media
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.run import Run

Decoder = Callable[[Tensor, Sequence[int]], Media]


def decoder(pipe: Any, **call: Any) -> Decoder:
    """A function of latents [n, *latent] and the prompt (a place in the call) of each.

    call: the pipeline's arguments, as in the search whose latents they are.
    """
    run = Run(pipe, Arguments(pipe, (), call))

    def decode(latents: Tensor, prompts: Sequence[int]) -> Media:
        return run.decode(latents.to(run.latents.device, run.latents.dtype), tuple(prompts))

    return decode
