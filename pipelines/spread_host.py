"""A call of a pipeline whose batches are evaluated, decoded and scored by worker processes."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch

from genscale.engine.engine import Engine
from genscale.engine.spread import SpreadEngine
from genscale.errors import UsageError, did_you_mean
from genscale.pipelines.bound_call import CALLBACKS
from genscale.pipelines.decode import Decoder
from genscale.pipelines.loop_noise import global_states
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.search_call import PipelineHost
from genscale.pipelines.search_settings import SearchSettings, ignore
from genscale.pipelines.worker import CallAsGiven, Opening
from genscale.protocol.interfaces import SamplerHooks
from genscale.workers import wire
from genscale.workers.crew import Crew
from genscale.workers.processes import Processes


class Executor(Protocol):
    """Who does the work of a search: something that has workers for a pipeline."""

    def crew(self, pipe: Any) -> Crew: ...


EXECUTORS = ("local", "processes")


def executor_of(given: Executor | str | None) -> Executor | None:
    """The executor that is meant: an object, "processes:4", or "local" and None for this process. UsageError: none."""
    if given is None or given == "local":
        return None
    if not isinstance(given, str):
        if not hasattr(given, "crew"):
            raise UsageError(
                f"executor={given!r} has no workers: give genscale.Processes(N) or 'processes:N'."
            )
        return given
    name, _, count = given.partition(":")
    if name != "processes":
        raise UsageError(
            f"there is no executor '{given}'{did_you_mean(name, EXECUTORS)}: give 'local' or 'processes:N'."
        )
    if not count.isdecimal():
        raise UsageError(f"executor '{given}' names no number of workers: give one, such as 'processes:2'.")
    return Processes(int(count))


def as_given(pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallAsGiven:
    """The call before anything is drawn from its generators. UsageError: it cannot be made in other processes."""
    for name in CALLBACKS:
        if kwargs.get(name) is not None:
            raise UsageError(
                f"'{name}' cannot be called in worker processes: leave it out, or search with executor='local'."
            )
    states = global_states(torch.device(getattr(pipe, "device", "cpu")))
    try:
        return CallAsGiven(wire.dumps((args, kwargs)), states)
    except Exception as error:
        raise UsageError(
            f"the arguments of the call cannot be sent to worker processes ({type(error).__name__}: {error}): give "
            "plain values, images and tensors, or search with executor='local'."
        ) from error


def check_spread(settings: SearchSettings) -> None:
    """UsageError: the search cannot be done by workers."""
    hooks, why = SamplerHooks.of(settings.sampler), None
    if hooks.arms:
        why = "arms are pipelines of their own"
    elif settings.draft is not None:
        why = "drafts change the pipeline between candidates"
    elif settings.mix is not None or settings.models:
        why = "a mix holds models that are not sent"
    elif "gradient" in hooks.needs:
        why = "gradients are not sent between processes"
    if why is not None:
        raise UsageError(
            f"this search cannot be spread over workers, since {why}: search with executor='local'."
        )


class SpreadHost(PipelineHost):
    """executor: whose workers do the work. given: the call, for them to make."""

    engine = SpreadEngine

    def __init__(self, call: PipelineCall, decoder: Decoder, executor: Executor, given: CallAsGiven) -> None:
        super().__init__(call, decoder)
        self._executor, self._given = executor, given
        name, why = type(call.pipe).__name__, None
        if call.loop is not None:
            why = "edits its latents or draws noise in its loop"
        elif call.caches:
            why = "has a cache, which remembers rows"
        if why is not None:
            raise UsageError(
                f"{name} {why}, and cannot be spread over workers: search with executor='local'."
            )

    def serve(self, engine: Engine, settings: SearchSettings) -> str | None:
        rows, together = self.sizes(settings)
        roles, branches = settings.roles, self.call.known_branches is not None
        opening = Opening(self._given, roles, rows, together or rows, settings.pad_batches, branches)
        shows = bool(roles.held_out.members or roles.guard.members) or settings.on_event is not ignore
        crew = self._executor.crew(self.call.pipe)
        try:
            crew.begin(opening)
            cast(SpreadEngine, engine).run_on(crew, shows, self._hear)
        except KeyboardInterrupt:
            return engine.interrupted()
        finally:
            crew.end()
        return None

    def _hear(self, told: dict[str, Any]) -> None:
        self.call.solver.call = told
