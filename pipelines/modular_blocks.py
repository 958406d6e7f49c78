"""Runs the blocks of a modular pipeline in an intercepted call.

The call gets a copy of the pipeline's blocks, which differs in three things:

- methods lose their `torch.no_grad` decorator. The pipeline itself runs all its blocks without gradients; a search that
  takes gradients switches them on between two steps, which a decorator around each block would undo.
- a loop made of blocks gets one more at its end, which calls `callback_on_step_end`, as other pipelines do.
- there are no progress bars.

Guiders are copied, too: what they count in a call stays in that call. A guider that keeps anything else from step to
step is refused, since a search does not evaluate steps in order.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

from genscale.diffusion.mixtures import Mix
from genscale.errors import UsageError
from genscale.pipelines.differentiable_models import without_graph
from genscale.pipelines.model_variants import denoisers
from genscale.pipelines.modular_inputs import STATE, STEP_END, all_blocks, blocks_of, input_names
from genscale.pipelines.modular_outputs import StateOutput

_AT_STEP = {"_step": None, "_num_inference_steps": None, "_timestep": None, "_count_prepared": 0}
"""What every guider sets at each step, with the values of a new one. Blocks before the loop ask a guider whether it
needs negative prompts, and one that is still at the last step of an earlier call may say no."""
_LOGGER = "diffusers.modular_pipelines.modular_pipeline"


def block_modules(pipe: Any) -> list[dict[str, Any]]:
    """Namespaces of the modules whose code a modular pipeline's blocks run; empty for other pipelines."""
    import sys

    blocks = blocks_of(pipe)
    names = set() if blocks is None else {type(block).__module__ for block in all_blocks(blocks)}
    return [vars(sys.modules[name]) for name in sorted(names) if name in sys.modules]


def guiders_of(pipe: Any) -> dict[str, Any]:
    """The guiders among a pipeline's components, by name."""
    return {
        name: part
        for name, part in getattr(pipe, "components", {}).items()
        if callable(getattr(part, "prepare_inputs", None)) and callable(getattr(part, "set_state", None))
    }


def guiders_for(pipe: Any, mix: Mix) -> dict[str, Any]:
    """Guiders of two branches in place of a pipeline's own, for a mix that is made of branches alone.

    The mix combines the branches itself, so that it does not matter how these guiders do. The pipeline's own may have
    other predictions, or be off.
    """
    own = guiders_of(pipe) if blocks_of(pipe) is not None else {}
    if not own or not mix.sources or any(source.branch is None for source in mix.sources):
        return {}
    from diffusers import ClassifierFreeGuidance

    return {name: ClassifierFreeGuidance(guidance_scale=2.0) for name in own}


def caller_of(pipe: Any, guiders: Mapping[str, Any]) -> AbstractContextManager[Callable[..., Any]]:
    """Yields what calls a pipeline: the pipeline itself, unless it is modular. guiders: in place of its own."""
    return nullcontext(pipe) if blocks_of(pipe) is None else _running(pipe, guiders)


@contextmanager
def _running(pipe: Any, others: Mapping[str, Any]) -> Iterator[Callable[..., StateOutput]]:
    """Inside, the pipeline has copies of its blocks and guiders; yields what calls it.

    pipe: in an intercepted call, which restores its attributes. others: guiders in place of the pipeline's own.
    UsageError, at the end: a guider keeps something from step to step.
    """
    blocks, guiders = blocks_of(pipe), guiders_of(pipe) | dict(others)
    copies = {name: copy.deepcopy(guider) for name, guider in guiders.items()}
    for guider in copies.values():
        guider.__dict__.update(_AT_STEP)
    before = {name: _kept(guider) for name, guider in copies.items()}
    pipe.__dict__.update(copies)

    def call(**given: Any) -> StateOutput:
        callback, names = (given.pop(name, None) for name in STEP_END)
        pipe.__dict__["_blocks"] = _copied(
            blocks, None if callback is None else StepEnd(pipe, callback, names)
        )
        return StateOutput.of(pipe, pipe(**_with_members(blocks, given)))

    try:
        with _quiet():
            yield call
    except BaseException as error:
        for guider in copies.values():  # its hooks are in a model whose call failed
            for model in denoisers(pipe).values():
                guider.cleanup_models(model)
        missing = ", ".join(getattr(pipe, "null_component_names", ()))
        if missing and isinstance(error, AttributeError | TypeError) and "NoneType" in str(error):
            raise UsageError(
                f"{type(pipe).__name__} lacks a component for this call ({error}); these are not loaded: {missing}. "
                "Load them (load_components) or give them (update_components)."
            ) from error
        raise
    changed = [name for name, guider in copies.items() if _differ(before[name], _kept(guider))]
    if changed:
        raise UsageError(
            f"the {changed[0]} of {type(pipe).__name__} ({type(copies[changed[0]]).__name__}) keeps values from step "
            "to step, such as a momentum, and a search does not evaluate steps in order: set it without them."
        )


def _with_members(blocks: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with those that are known only as members of a group in the state that is given."""
    state, names = given.get(STATE), set(input_names(blocks))
    if state is None:
        return given
    members = {name: value for name, value in given.items() if name not in names and name != STATE}
    made = type(state)({**state.values, **members}, state.kwargs_mapping)
    return {name: value for name, value in given.items() if name not in members} | {STATE: made}


def _kept(guider: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(guider).items() if name not in (*_AT_STEP, "_input_fields")}


def _differ(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() != b.keys() or any(b[name] is not value for name, value in a.items())


class PlainBlock:
    """What diffusers asks of a block, for one without inputs, outputs and components."""

    model_name: Any = None
    description = ""

    def __init__(self) -> None:
        self.sub_blocks: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.required_inputs: list[str] = []
        self.intermediate_outputs: list[Any] = []
        self.outputs: list[Any] = []
        self.expected_components: list[Any] = []
        self.expected_configs: list[Any] = []


class StepEnd(PlainBlock):
    """Calls `callback_on_step_end(pipe, step, timestep, tensors)` at the end of a loop's body.

    names: of the values of the block state that it gets; what it returns replaces them.
    """

    def __init__(self, pipe: Any, callback: Callable[..., Any], names: Any) -> None:
        super().__init__()
        self.pipe, self.callback, self.names = pipe, callback, list(names or ["latents"])

    def __call__(self, components: Any, block_state: Any, i: int = 0, t: Any = None, **others: Any) -> Any:
        tensors = {name: getattr(block_state, name) for name in self.names if hasattr(block_state, name)}
        for name, value in (self.callback(self.pipe, i, t, tensors) or {}).items():
            setattr(block_state, name, value)
        return components, block_state


def _copied(block: Any, step_end: StepEnd | None) -> Any:
    """A copy of a block and of all inside it."""
    made = copy.copy(block)
    made.__class__ = _undecorated(type(block))  # type: ignore[arg-type]
    parts = copy.copy(block.sub_blocks)
    for name, part in block.sub_blocks.items():
        parts[name] = _copied(part, step_end)
    made.sub_blocks = parts
    if hasattr(block, "loop_step"):
        made._progress_bar_config = {"disable": True}
        if step_end is not None and parts:
            parts["genscale_step_end"] = step_end
    return made


@cache
def _undecorated(cls: type) -> type:
    """A subclass whose methods have no `torch.no_grad` decorator."""
    methods = dict(without_graph(cls))
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {**names, **methods}) if methods else cls


class _Quiet(logging.Filter):
    """Drops what diffusers logs about a failing block in one thread: the exception says it, and may be handled."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self.thread


@contextmanager
def _quiet() -> Iterator[None]:
    logger, quiet = logging.getLogger(_LOGGER), _Quiet()
    logger.addFilter(quiet)
    try:
        yield
    finally:
        logger.removeFilter(quiet)
