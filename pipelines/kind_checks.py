"""Refuses verifiers that do not judge what a pipeline makes, before anything is spent."""

from __future__ import annotations

from typing import Any

from genscale.engine.judged_kinds import DEFAULT, all_judge, check_judges
from genscale.engine.verifier_roles import Roles
from genscale.media_items import AUDIO
from genscale.pipelines.decode import Decoder
from genscale.pipelines.output_kinds import possible_kinds, required_rate, sampling_rate_of
from genscale.pipelines.pipeline_call import PipelineCall


def check_kinds(pipe: Any, roles: Roles) -> None:
    """UsageError: by the pipeline's code a verifier judges none of the kinds that it may make, or its audio has no
    sampling rate."""
    kinds = possible_kinds(pipe)
    if not roles.judging or not kinds:
        return
    check_judges(roles, kinds, f"{type(pipe).__name__} makes")
    if kinds == {AUDIO}:
        required_rate(pipe)


def check_kinds_by_decoding(call: PipelineCall, decoder: Decoder, roles: Roles) -> None:
    """UsageError: a verifier does not judge what the pipeline makes of this call's first initial latents.

    It costs one decode, and is done only where the pipeline's code leaves a choice between kinds that the verifiers
    judge and others. Code that says nothing is taken to make images or videos, or audio where it has a sampling rate.
    """
    pipe = call.pipe
    unknown = {*DEFAULT, *([] if sampling_rate_of(pipe) is None else [AUDIO])}
    if all_judge(roles, possible_kinds(pipe) or unknown):
        return
    media = decoder.media(call.latents[:1], (0,))
    call.ledger.decodes += 1
    check_judges(roles, {media.kind}, f"{type(pipe).__name__} makes")
