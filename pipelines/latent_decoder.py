"""Decodes stored latents of an earlier search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genscale.engine.origins import Origin
from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.decode import Decoder, DecodingDriver
from genscale.pipelines.followed_call import FollowedCall
from genscale.pipelines.followed_loop import FollowedLoop, Line
from genscale.pipelines.output_media import as_media
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.protocol.particles import Candidate

LatentDecoder = Callable[[Tensor, Sequence[int]], Media]


def _needs_latents_alone(call: PipelineCall, loop: FollowedLoop) -> bool:
    """Whether latents are decoded to the same whatever noise a candidate's run began with."""
    call.processes()  # finds how the initial latents are made of noise
    if loop.priors[0].draw is None:
        return True
    other, made = Candidate(1, "prior"), []
    for line in (Line(0, None), Line(0, 1, other, Origin(other, -loop.priors[0].own_noise()))):
        given = call.arguments.composed(
            call.arguments.quiet(output_type="np", return_dict=True), call.rows, (0,), call.row_arguments()
        )
        driver = DecodingDriver(call, call.latents[:1], Key((0,)), (0,), FollowedCall(loop, (line,), (0,)))
        made.append(as_media(call.run(loop.arguments(given, (line,)), driver), call.pipe).tensor)
    return torch.allclose(made[0], made[1], rtol=1e-3, atol=1e-3)


def latent_decoder(pipe: Any, **arguments: Any) -> LatentDecoder:
    """A function that decodes latents [n, *latent] of an earlier search, given the prompt index of each.

    arguments: those of the pipeline call, as in the search.
    """
    call = PipelineCall(pipe, Arguments(pipe, (), arguments))
    if call.loop is not None and not (call.loop.enterable and _needs_latents_alone(call, call.loop)):
        raise UsageError(
            f"{type(pipe).__name__} uses more than the latents after its last step, such as the noise that they were "
            "made of, so its pictures cannot be made of stored latents: run the search again."
        )
    decoder = Decoder(call)

    def decode(latents: Tensor, prompts: Sequence[int]) -> Media:
        return decoder.media(latents.to(call.latents.device, call.latents.dtype), tuple(prompts))

    return decode
