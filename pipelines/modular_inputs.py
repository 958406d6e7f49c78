"""What a call of a modular pipeline takes: the inputs that its blocks declare.

A modular pipeline (`diffusers.ModularPipeline`) is a tree of blocks which pass a state on. Its `__call__` takes
`**kwargs`; the names are those of the `InputParam`s of its blocks. Two more say what to begin with (`state=`, the
PipelineState of an earlier call) and what to return (`output=`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from genscale.errors import UsageError, did_you_mean
from genscale.plugins.limits import shown

STATE, OUTPUT, PROMPT = "state", "output", "prompt"
STEP_END = ("callback_on_step_end", "callback_on_step_end_tensor_inputs")
"""Arguments that a search adds to a modular pipeline whose loop is made of blocks: a block at its end calls it."""


def blocks_of(pipe: Any) -> Any:
    """The blocks of a modular pipeline; None for any other object."""
    blocks = getattr(pipe, "_blocks", None)
    return (
        blocks if callable(blocks) and hasattr(blocks, "sub_blocks") and hasattr(blocks, "inputs") else None
    )


def all_blocks(block: Any) -> Iterator[Any]:
    """A block and all blocks inside it."""
    yield block
    for part in block.sub_blocks.values():
        yield from all_blocks(part)


def has_loop_of_blocks(blocks: Any) -> bool:
    """Whether a loop among these blocks calls other blocks in each iteration."""
    return any(hasattr(block, "loop_step") and block.sub_blocks for block in all_blocks(blocks))


def input_names(blocks: Any) -> tuple[str, ...]:
    """Names of all inputs, and of the groups of inputs that are given as one dictionary."""
    found: dict[str, None] = {}
    for parameter in blocks.inputs:
        found |= {name: None for name in (parameter.name, parameter.kwargs_type) if name}
    more = STEP_END if has_loop_of_blocks(blocks) else ()
    return (*found, *more)


def input_defaults(blocks: Any) -> dict[str, Any]:
    """The default of each input; None where it has none."""
    return {parameter.name: parameter.default for parameter in blocks.inputs if parameter.name}


def output_names(blocks: Any) -> list[str]:
    """Names of all that the blocks make."""
    names = (out.name for block in all_blocks(blocks) for out in _outputs(block))
    return list(dict.fromkeys(name for name in names if name))


def _outputs(block: Any) -> Any:
    return () if block.sub_blocks and not hasattr(block, "loop_step") else block.intermediate_outputs


def makes_latents(block: Any) -> bool:
    """Whether no loop in a block begins with latents that blocks outside have made."""
    loops = [part for part in all_blocks(block) if hasattr(part, "loop_step")]
    inside = {id(part) for loop in loops for part in loop.sub_blocks.values()}
    before = [part for part in all_blocks(block) if not part.sub_blocks and id(part) not in inside]
    made = {out.name for part in before for out in part.intermediate_outputs}
    return "latents" in made or not any(p.name == "latents" for loop in loops for p in loop.inputs)


def output_of(pipe: Any, given: dict[str, Any]) -> Any:
    """What a modular pipeline is to return: None for the whole state, a name, or a list of names.

    Takes `output` out of `given`, and puts the inputs that a given `state` holds in. None for other pipelines.
    UsageError: an output that no block makes, a state of another type.
    """
    blocks = blocks_of(pipe)
    if blocks is None:
        return None
    output, state = given.pop(OUTPUT, None), given.pop(STATE, None)
    if state is not None:
        given[STATE] = _unpacked(state, blocks, given)
    several = isinstance(output, list | tuple)
    names = list(output) if several else [] if output is None else [output]
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"output={shown(output)} must be a name, or a list of names.")
        defaults = (name for name, default in input_defaults(blocks).items() if default is not None)
        known = {*output_names(blocks), *defaults, *given, *(state.values if state is not None else ())}
        if name not in known:
            raise UsageError(
                f"{type(pipe).__name__} makes no output '{name}'{did_you_mean(name, known)}: give the name of what a "
                "block makes, a list of such names, or leave output out for the whole state."
            )
    return output


def prompt_of_state(given: Mapping[str, Any]) -> Any:
    """The prompt in a state that is given to blocks which take no prompt, but what an earlier block made of it."""
    state: Any = given.get(STATE)
    return state.get(PROMPT) if hasattr(state, "kwargs_mapping") and given.get(PROMPT) is None else None


def _unpacked(state: Any, blocks: Any, given: dict[str, Any]) -> Any:
    """Put the inputs that a state holds into `given`, where they are not; a state of its other values.

    Blocks get some inputs as a group, whatever its members are: these are put into `given` under their own names.
    """
    values, groups = getattr(state, "values", None), getattr(state, "kwargs_mapping", {})
    if not isinstance(values, Mapping):
        raise UsageError(f"state={shown(state)} must be the PipelineState of an earlier call.")
    inputs = {p.name for p in blocks.inputs if p.name}
    kinds = {p.kwargs_type for p in blocks.inputs if p.kwargs_type}
    for name in inputs & set(values):
        given.setdefault(name, values[name])
    members = {name for kind in kinds & set(groups) for name in groups[kind]}
    for name in members & set(values) - inputs:
        given.setdefault(name, values[name])
    rest = {name: value for name, value in values.items() if name not in inputs | members}
    return type(state)(rest, {kind: list(names) for kind, names in groups.items()})
