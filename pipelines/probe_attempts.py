"""Probes a pipeline with guessed outputs of its denoiser, or where its loop does not take these, with real ones."""

from __future__ import annotations

from typing import Any, Protocol

from genscale.errors import UsageError
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.failures import alike, fails_again
from genscale.pipelines.intercepted_call import LOOP, LoopDriver
from genscale.pipelines.pipeline_noise import generator_states, restore_generators
from genscale.pipelines.probe import Probe
from genscale.pipelines.watched_models import PlaceholderOutputs


class Probing(Protocol):
    """The part of a PipelineCall that exists before its probe."""

    arguments: Arguments
    encoder_cache: EncoderCache
    placeholders: PlaceholderOutputs

    def run(self, given: dict[str, Any], driver: LoopDriver) -> Any:
        """Call the pipeline under a driver."""


def probe_of(call: Probing, given: dict[str, Any]) -> Probe:
    """The probe of a pipeline call with these arguments, and placeholders that its loop takes.

    A loop may fail because a guessed output does not fit it, or because it reads what else the denoiser leaves behind,
    such as attention maps. If it fails so twice, the first call is evaluated and gives the structure of the output.
    Where zeros of that structure fail in the same way, the denoiser is evaluated in every pass of the loop.
    """
    placeholders, failed = call.placeholders, None
    state = generator_states(call.arguments.generator)
    while True:
        probe = Probe(call.encoder_cache, placeholders, given)
        placeholders.guessed = False
        try:
            call.run(given, probe)
            if not probe.unnumbered:
                break
            restore_generators(call.arguments.generator, state)
        except UsageError:
            raise
        except Exception as error:
            recorded = failed is not None and not placeholders.guess  # the first output was real
            if probe.phase != LOOP or placeholders.evaluate or not (placeholders.guessed or recorded):
                raise
            if failed is not None and not alike(failed, error):
                if recorded:
                    raise
                break
            placeholders.guess, placeholders.evaluate = failed is None, recorded
            failed = failed or error
            restore_generators(call.arguments.generator, state)
    if failed is not None and placeholders.guess:
        raise failed  # it was not the guess
    if failed is not None and not placeholders.evaluate:
        restore_generators(call.arguments.generator, state)  # the same is drawn once more
        placeholders.evaluate = fails_again(
            failed, lambda: call.run(given, Probe(call.encoder_cache, placeholders, given))
        )
    return probe
