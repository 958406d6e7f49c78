"""The caches of a pipeline's models, whose state a search keeps for each row.

Caches of diffusers (`enable_cache`: first block, TaylorSeer, MagCache, pyramid attention broadcast, FasterCache,
SeaCache, text K/V) are hooks on submodules. What they keep between calls lies in a StateManager, by cache context, or
in the hook's `state`. `ModelCaches` finds all of them, whatever the cache; it empties them, fills them with the rows of
the next call, and reads them after it (cache_rows.py).

Three kinds of state:

- by step: the decisions of the cache follow from counters and timesteps alone (BY_STEP). Rows with equal counters share
  a call.
- shared: a lossless store of what follows from the prompts (SHARED). It stays as long as the prompts of the rows do.
- all others, and any that are not known: the cache may compare the values of the whole batch with each other, as first
  block cache and SeaCache do. Such rows are evaluated one by one, so that each is decided on for itself, and gets what
  it would get in the pipeline alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from genscale.errors import UsageError
from genscale.pipelines.cache_rows import CacheRows, RowCacheState, joined
from genscale.pipelines.watched_models import is_compiled, modules_in

BY_STEP = frozenset(
    {
        *("TaylorSeerState", "MagCacheState", "PyramidAttentionBroadcastState"),
        *("FasterCacheDenoiserState", "FasterCacheBlockState"),
    }
)
SHARED = frozenset({"TextKVCacheState", "TextKVCacheBlockState"})
ONE_BRANCH = frozenset({"FasterCacheDenoiserState", "FasterCacheBlockState"})
"""State of the conditional branch alone, though the model is called with both."""
TEXTS_KEPT = 8  # texts that a shared store may hold before it is emptied


@dataclass(frozen=True, eq=False)
class Slot:
    """A place where hooks keep state. model: name of the component. manager: None where it is `hook.state`."""

    model: str
    hook: Any
    manager: Any = None

    @property
    def kind(self) -> str:
        """Name of the class of its states."""
        cls = type(self.hook.state) if self.manager is None else self.manager._state_cls
        return cls.__name__ if cls.__module__.startswith("diffusers.") else f"{cls.__module__}.{cls.__name__}"

    @property
    def one_branch(self) -> bool:
        return self.kind in ONE_BRANCH and not getattr(self.hook, "is_guidance_distilled", False)

    def states(self) -> dict[str, Any]:
        """State objects by cache context."""
        return {"": self.hook.state} if self.manager is None else dict(self.manager._state_cache)

    def fill(self, name: str, cls: type, attributes: Mapping[str, Any]) -> None:
        if self.manager is None:
            state = self.hook.state = cls()
        else:
            state = cls(*self.manager._init_args, **self.manager._init_kwargs)
            self.manager._state_cache[name] = state
        vars(state).update(attributes)


class ModelCaches:
    """The caches of all models of a pipeline; false where there are none.

    apart: rows must be evaluated one by one.
    """

    def __init__(self, components: Mapping[str, Any]) -> None:
        self._models = dict(components)
        self._hooks = [found for name, model in components.items() for found in _hooks(name, model)]
        self.slots: list[Slot] = []
        self._shared: list[tuple[Any, nn.Module]] = []
        seen: set[int] = set()
        for name, module, hook in self._hooks:
            for slot in _slots(name, module, hook):
                if slot.kind in SHARED:
                    self._shared.append((hook, module))
                elif id(slot.manager or hook) not in seen:
                    seen.add(id(slot.manager or hook))
                    self.slots.append(slot)
        self.apart = any(slot.kind not in BY_STEP for slot in self.slots)
        self._texts: dict[int, Any] = {}
        self._prompts: tuple[int, ...] | None = None
        self._lent = self._used = False  # to a verifier; by it

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def models(self) -> set[str]:
        """Names of the models that have caches."""
        return {name for name, _, _ in self._hooks}

    def skipping(self) -> Iterator[tuple[str, Any]]:
        """(model, hook) of all hooks by which these caches skip modules; none of a compiled model."""
        kinds = {type(hook).__module__ for _, _, hook in self._hooks}
        for name, model in self._models.items():
            if name not in self.models() or is_compiled(model):
                continue
            for part in model.modules():
                for hook in _registered(part):
                    known = type(hook).__module__ in kinds and hasattr(hook, "new_forward")
                    if known and getattr(hook.fn_ref, "original_forward", None) is not None:
                        yield name, hook

    def reset(self) -> None:
        """Empty all caches. Not inside `cache_context`, which this ends."""
        self.empty_rows()
        self.forget_texts()

    def empty_rows(self) -> None:
        """Empty the caches, but for what is shared."""
        for _, module, hook in self._hooks:
            if (hook, module) not in self._shared:
                hook.reset_state(module)

    def forget_texts(self) -> None:
        """Empty what is shared."""
        for hook, module in self._shared:
            hook.reset_state(module)
        self._texts.clear()
        self._prompts = None

    def lend(self) -> None:
        """A verifier may use the models, and finds nothing of the search in them."""
        self.empty_rows()
        self._lent, self._used = True, False

    def called_outside(self, name: str) -> None:
        """A model is called, and not by the loop of the search. UsageError: by another thread, and it has a cache."""
        if name not in self.models():
            return
        if not self._lent:
            raise UsageError(
                f"the pipeline's {name} keeps outputs from step to step (a cache), and a search uses it: call it when "
                "that has ended."
            )
        if not self._used:
            self.forget_texts()
        self._used = True

    def take_back(self) -> None:
        if self._used:
            self.reset()
        self._lent = self._used = False

    def groups(self, rows: Sequence[RowCacheState | None]) -> list[list[int]]:
        """Which rows can share a model call, in the order of their first; None: a row of which nothing is kept."""
        if self.apart:
            return [[i] for i in range(len(rows))]
        found: dict[Any, list[int]] = {}
        for i, row in enumerate(rows):
            found.setdefault(None if row is None else row.call.kind, []).append(i)
        return list(found.values())

    def load(self, rows: Sequence[RowCacheState | None], prompts: tuple[int, ...]) -> None:
        """Let the caches hold what they would after a call of exactly these rows, of one group."""
        self.empty_rows()
        if self._shared and prompts != self._prompts:
            self.forget_texts()
            self._prompts = prompts
        known = [row for row in rows if row is not None]
        if len(known) == len(rows):
            for (number, name), (cls, attributes) in joined(known).items():
                self.slots[number].fill(name, cls, attributes)

    def read(self, n: int, blocks: Mapping[str, int], on_host: bool = False) -> tuple[RowCacheState, ...]:
        """What the caches hold for each of the `n` latents of the last call. blocks: guidance copies, by model.

        on_host: as of `CacheRows.of`.
        """
        states, copies = {}, {}
        for number, slot in enumerate(self.slots):
            for name, state in slot.states().items():
                states[number, name] = state
                copies[number, name] = 1 if slot.one_branch else blocks.get(slot.model, 1)
        return CacheRows.of(states, n, copies, on_host).rows()

    def begun_at(self, step: int) -> None:
        """Tell caches that were empty before the last call which step of the run it was.

        MagCache looks its ratios up by the number of the step, which it counts from its first call.
        """
        for slot in self.slots:
            if slot.kind != "MagCacheState":
                continue
            for state in slot.states().values():
                at = step + state.step_index
                state.step_index = at if at < slot.hook.config.num_inference_steps else 0

    def meet(self, arguments: Mapping[str, Any]) -> None:
        """Before a model call: keep its texts alive, since a shared store knows them by where they are in memory."""
        if not self._shared:
            return
        texts = arguments.get("encoder_hidden_states")
        if id(texts) not in self._texts and len(self._texts) == TEXTS_KEPT:
            self.forget_texts()
        self._texts[id(texts)] = texts


def caches_of(components: Mapping[str, Any]) -> ModelCaches:
    """Of a pipeline with these components. UsageError: a hook keeps something that cannot be read."""
    return ModelCaches({k: m for k, m in components.items() if isinstance(m, nn.Module)})


def _hooks(name: str, model: Any) -> Iterator[tuple[str, nn.Module, Any]]:
    """(name of the component, module, hook) of all hooks of diffusers that keep state between calls."""
    if not isinstance(model, nn.Module):
        return
    for module in modules_in(model):
        if "_diffusers_hook" in module.__dict__:
            for hook in _registered(module):
                if getattr(hook, "_is_stateful", False):
                    yield name, module, hook


def _registered(module: nn.Module) -> list[Any]:
    return list(getattr(module.__dict__.get("_diffusers_hook"), "hooks", {}).values())


def _slots(name: str, module: nn.Module, hook: Any) -> list[Slot]:
    from diffusers.hooks.hooks import StateManager

    managers = [value for value in vars(hook).values() if isinstance(value, StateManager)]
    if managers:
        return [Slot(name, hook, manager) for manager in managers]
    if hasattr(getattr(hook, "state", None), "__dict__"):
        return [Slot(name, hook)]
    raise UsageError(
        f"the pipeline's {name} has a hook {type(hook).__name__}, whose state between calls cannot be read for each "
        "candidate: remove it before the search."
    )
