"""Finds out whether rows of different steps may share one iteration of a pipeline's loop, without any evaluation.

The loop body is written for one step: it scales the latents, calls the models with the step's timestep, combines their
outputs and calls `scheduler.step`. Rows at other steps may pass through it only if nothing in it depends on the step
but the scaling and the timestep, since a search can give these two to each row (mixed_steps.py). Guidance that is on
for a part of the run, one that changes from step to step, two experts, a ControlNet that ends early, callbacks: all of
these do depend on it, and there are others. So it is not read from the code but tried: `StepStudy` walks through all
steps with the same latents, unscaled, and the same made-up outputs of the models. At every step
the models must be called in the same order with the same arguments, and `step` must be given the same output. Of the
models' arguments only timesteps may differ: tensors of the call itself with one value, or the same for each row.
Anything else that differs refuses the call, and its batches then hold one step each.

Whether the denoiser gives each row what its own timestep asks for is measured later (mixed_steps.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from genscale.key import Key
from genscale.pipelines.argument_values import copied, same
from genscale.pipelines.bound_call import CALLBACKS
from genscale.pipelines.intercepted_call import LeaveLoop, LoopDriver, intercept
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.row_gather import rows_of, sample_of
from genscale.pipelines.scheduler_proxy import plain_scheduler
from genscale.pipelines.watched_models import is_denoiser

Place = tuple[str, int]
"""A model, and how often it was called before in the iteration."""


Timesteps = dict[str, tuple[Tensor, int]]
"""Argument of a model (position or name): (value at every step [steps], entries for each row; 0: one for all rows)."""


class DependsOnStep(Exception):
    """The loop depends on the step beyond timesteps and scaling; the message says where."""


@dataclass
class Steps:
    """What the loop does at each step of the grid, of a loop that is the same at all of them otherwise.

    timesteps: of each model call. calls: the arguments of `scheduler.step` at every step, without output and latents.
    scaling: (a copy of the scheduler before the step, the further arguments of `scale_model_input`) at every step;
    empty if it is not called. one_size: models are measured by calls of as many rows as the batch has, since each other
    number may cost another graph.
    """

    timesteps: dict[Place, Timesteps] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    scaling: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    one_size: bool = False


def study_steps(call: PipelineCall) -> Steps | None:
    """What is needed to evaluate rows of different steps together; None where they must stay apart."""
    if refusal(call) is not None:
        return None
    given, _ = call.given_for(None)
    study = StepStudy(call)
    try:
        with call.ledger.clock("probe"):
            intercept(call.pipe, given, study)
        return study.found()
    except Exception:  # a loop that fails here, for whatever reason, is served with one step a batch
        return None


def refusal(call: PipelineCall) -> str | None:
    """Why rows of different steps stay apart, of what is known without a walk; None if nothing speaks against it."""
    layout = call.probe.layout
    if len(call.probe.evaluations) < 2:
        return "the run has one step"
    if call.loop is not None:
        return "the loop edits latents or draws noise"
    if call.mixing is not None:
        return "the weights of a mix depend on the step"
    if call.own_rows or call.row_per_latent or layout.joint or (layout.copies, layout.inner) != (1, 1):
        return "the loop takes just the call's own rows"
    if any(call.arguments.given.get(name) is not None for name in CALLBACKS[:2]):
        return "the call has a callback, which is given one step"
    if call.caches:
        return "a model keeps outputs from step to step"
    if call.placeholders.evaluate:
        return "the loop reads more of the denoiser than its output"
    return None


class StepStudy(LoopDriver):
    """Walks through all steps with the same latents and the same made-up outputs; `found` compares the steps."""

    def __init__(self, call: PipelineCall) -> None:
        super().__init__(call.encoder_cache, call.placeholders)
        self.probe, self.latents = call.probe, call.latents_of(tuple(range(len(call.sources))))
        self.rows = len(self.latents)
        self.reads_expected = call.probe.reads_expected
        self.replay = call.probe.replay_for(None)
        self.scale_rows = self._unscaled
        self.steps = Steps()
        self._made_up: dict[Place, Any] = {}
        self._first: list[tuple[Place, dict[str, Any]]] = []  # of the first step: the models' arguments
        self._seen: list[tuple[Place, dict[str, Any]]] = []  # of this step
        self._varying: dict[Place, dict[str, list[Tensor]]] = {}
        self._output: Tensor | None = None
        self._called: Counter[str] = Counter()

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    def scheduler_state(self, step: int) -> Mapping[str, Any]:
        return self.probe.state_at(step)

    def call_model(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        place = name, self._called[name]
        self._called[name] += 1
        given = {str(i): a for i, a in enumerate(args)} | kwargs
        # A copy of those of the first step: a loop may write into the tensors that it gives to a model.
        self._seen.append((place, given if self.steps.calls else copied(given)))
        made = self._made_up.get(place)
        if made is None:
            key = Key((0,)).fold("step study", *place)
            made = self._made_up[place] = filled(
                self.placeholders.get(name, module, forward, args, kwargs), key
            )
        if is_denoiser(name) and rows_of(sample_of(args, kwargs)) % self.rows:
            raise DependsOnStep(f"the rows of {name} are not those of the latents")
        return made

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        step, output = len(self.steps.calls), call["model_output"]
        self.steps.calls.append({k: v for k, v in call.items() if k not in ("model_output", "sample")})
        if not torch.equal(self.probe.layout.to_rows(call["sample"]), self.latents):
            raise DependsOnStep("the loop changes the latents")
        if len(self.steps.scaling) not in (0, len(self.steps.calls)):
            raise DependsOnStep("the latents are scaled at some steps only, or twice")
        if step == 0:
            self._first, self._output = self._seen, output.clone()
        if [place for place, _ in self._seen] != [place for place, _ in self._first]:
            raise DependsOnStep(f"other models are called at step {step}")
        if self._output is None or not same(output, self._output):
            raise DependsOnStep(f"the outputs are combined otherwise at step {step}")
        for (place, given), (_, before) in zip(self._seen, self._first, strict=True):
            self._compare(place, given, before, step)
        self._seen = []
        self._called.clear()
        if step + 1 == len(self.probe.evaluations):
            raise LeaveLoop
        return self.probe.layout.from_rows(self.latents.clone()), step + 1

    def found(self) -> Steps | None:
        """None: a denoiser is not given the timestep as an argument."""
        for place, given in self._first:
            varying = self._varying.get(place, {})
            if is_denoiser(place[0]) and not varying:
                return None
            rows = rows_of(sample_of((), given))
            values = {k: torch.stack([v.reshape(-1)[0] for v in seen]) for k, seen in varying.items()}
            entries = {k: seen[0].numel() // self.rows if seen[0].ndim else 0 for k, seen in varying.items()}
            if any(n and n * self.rows not in (self.rows, rows) for n in entries.values()):
                return None
            self.steps.timesteps[place] = {k: (values[k], entries[k]) for k in values}
        return self.steps if len(self.steps.calls) == len(self.probe.evaluations) else None

    def _compare(self, place: Place, given: dict[str, Any], before: dict[str, Any], step: int) -> None:
        """Compare a model call with that of the first step, and note its timesteps."""
        if given.keys() != before.keys():
            raise DependsOnStep(f"{place[0]} is given other arguments at step {step}")
        for name, value in given.items():
            seen = self._varying.setdefault(place, {})
            if name not in seen and same(value, before[name]):
                continue
            if not is_timestep(value) or not is_timestep(before[name]) or value.shape != before[name].shape:
                raise DependsOnStep(f"{place[0]} is given another {name} at step {step}")
            seen.setdefault(name, [before[name].detach().clone()] * step).append(value.detach().clone())

    def _unscaled(self, proxy: Any, sample: Tensor, more: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        self.steps.scaling.append((plain_scheduler(proxy), more, named))
        return sample


def is_timestep(value: Any) -> bool:
    """Whether an argument can be a timestep: one number, or the same for each row."""
    return (
        isinstance(value, Tensor)
        and value.ndim <= 1
        and value.numel() > 0
        and bool((value == value.flatten()[0]).all())
    )


def filled(output: Any, key: Key) -> Any:
    """An output of a model with made-up numbers in place of its zeros, the same for the same key."""
    numbers: Iterator[int] = iter(range(1 << 30))

    def fill(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.is_floating_point():
                return value
            return key.fold(next(numbers)).normal(tuple(value.shape)).to(value.device, value.dtype)
        if isinstance(value, dict):
            made = {k: fill(v) for k, v in value.items()}
            return type(value)(**made) if type(value) is not dict else made
        if isinstance(value, tuple) and hasattr(value, "sample"):  # a guess (watched_models.LikelyOutput)
            return type(value)(fill(v) for v in value)
        return type(value)(fill(v) for v in value) if isinstance(value, list | tuple) else value

    return fill(output)
