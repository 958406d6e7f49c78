"""What is known about a pipeline call after its probe, for the code that studies its loop."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.probe import Probe
from genscale.pipelines.watched_models import PlaceholderOutputs


class ProbedCall(Protocol):
    """The part of a PipelineCall that `loop_study` and `followed_loop` need."""

    pipe: Any
    arguments: Arguments
    probe: Probe
    latents: Tensor
    rows: int
    global_states: dict[str, Tensor]
    encoder_cache: EncoderCache
    placeholders: PlaceholderOutputs

    def initial_latents(self, draws: list[Tensor]) -> Tensor:
        """Initial latents [rows, *latent] that the pipeline makes when these are its draws."""

    def row_arguments(self) -> frozenset[str]:
        """Names of the arguments with one entry for each row."""
