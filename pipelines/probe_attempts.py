"""Probes a pipeline with guessed outputs of its denoiser, or where its loop does not take these, with real ones."""

from __future__ import annotations

from typing import Any, Protocol

from genscale.errors import NoLoop, UsageError
from genscale.pipelines.bound_call import CALLBACKS, Arguments
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.failures import alike
from genscale.pipelines.intercepted_call import AFTER, LOOP, LoopDriver
from genscale.pipelines.known_loop import KnownLoop
from genscale.pipelines.pipeline_noise import generator_states, restore_generators
from genscale.pipelines.probe import Probe
from genscale.pipelines.watched_models import PlaceholderOutputs


class Probing(Protocol):
    """The part of a PipelineCall that exists before its probe."""

    arguments: Arguments
    encoder_cache: EncoderCache
    placeholders: PlaceholderOutputs
    known: KnownLoop | None

    def run(self, given: dict[str, Any], driver: LoopDriver) -> Any:
        """Call the pipeline under a driver."""


def probe_of(call: Probing, given: dict[str, Any]) -> Probe:
    """The probe of a pipeline call with these arguments, and placeholders that its loop takes.

    A loop may fail because a guessed output does not fit it, or because it reads what else the denoiser leaves behind,
    such as attention maps. If it fails so twice, the first call is evaluated and gives the structure of the output.
    Where zeros of that structure fail, too, the denoiser is evaluated in every pass of the loop. NoLoop: even then the
    loop fails. All other exceptions, and those that do not come a second time, are raised as they are.
    """
    placeholders, state = call.placeholders, generator_states(call.arguments.generator)

    def attempt() -> Probe | Exception:
        restore_generators(call.arguments.generator, state)
        return _attempt(call, given)

    first = attempt()
    if isinstance(first, Probe):
        return first
    again = attempt()
    if isinstance(again, Probe) or not alike(first, again):
        raise first  # it was not the guess
    placeholders.guess = False
    found = attempt()
    if isinstance(found, Probe):
        again = attempt()  # now without any evaluation
        placeholders.evaluate = not isinstance(again, Probe) and alike(first, again)
        return found
    if not alike(first, found) and isinstance(attempt(), Probe):
        raise found  # it does not come a second time
    placeholders.evaluate = True
    found = attempt()
    if isinstance(found, Probe):
        return found
    raise NoLoop(
        "the pipeline's loop fails where a search is to follow it, even with a denoiser that is evaluated in every "
        f"pass ({type(found).__name__}: {str(found).splitlines()[0] if str(found) else ''})."
    ) from found


def _attempt(call: Probing, given: dict[str, Any]) -> Probe | Exception:
    """One probe, or what the loop raised that its placeholders may have caused. All other exceptions are raised."""
    placeholders = call.placeholders
    while True:
        probe = Probe(call.encoder_cache, placeholders, given, known=call.known)
        placeholders.guessed = False
        state = generator_states(call.arguments.generator)
        try:
            call.run(given | {k: None for k in CALLBACKS[:2] if k in given}, probe)
        except UsageError:
            raise
        except Exception as error:
            if probe.phase == AFTER:
                raise NoLoop(
                    "the pipeline goes on after its loop in a way that a search cannot follow "
                    f"({type(error).__name__}: {error})."
                ) from error
            if probe.phase != LOOP or not (placeholders.guessed or not placeholders.guess):
                raise
            return error
        if not probe.unnumbered:
            return probe
        restore_generators(call.arguments.generator, state)
