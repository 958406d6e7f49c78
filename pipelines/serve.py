"""The three ways to conduct a pipeline's loop: probe it, serve an engine with it, decode with it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor, nn

from genscale.errors import UsageError
from genscale.pipelines.branches import Branches, BranchRows, doubled
from genscale.pipelines.decode import formatted
from genscale.pipelines.differentiable_models import Graphs
from genscale.pipelines.encoder_cache import Memo
from genscale.pipelines.intercepted_call import Done, LoopDriver, Templates, forget_caches, is_denoiser
from genscale.pipelines.mixture_sources import Mixing
from genscale.pipelines.noise_interception import Replay
from genscale.pipelines.probe import Probe
from genscale.pipelines.row_gather import Gather, GatherCache, NotElastic, rows_of, sample_of
from genscale.pipelines.scheduler_proxy import OffGrid
from genscale.pipelines.solver import OwnSolver
from genscale.pipelines.watched_models import zeros_like
from genscale.protocol.batches import Batch, Output


class Serve(LoopDriver):
    """Answers an engine's batches with the pipeline's own loop body.

    rows: rows that the pipeline was called with, one a prompt; or one a latent when `composition`, the prompt
    index of every row, is given: then only batches of just that composition are served. replay: what these rows draw
    before the loop. probe: what is known of the loop. ask: gives the open batch, or for an output the next one.
    level_of: what the loop is shown for a noise level between those of its grid. graphs: calls models with a graph.
    branches: how the two branches of classifier-free guidance are evaluated. mixing: what else is evaluated beside the
    pipeline's own predictions.
    """

    def __init__(
        self,
        memo: Memo,
        templates: Templates,
        probe: Probe,
        solver: OwnSolver,
        rows: int,
        ask: Callable[[Output | None], Batch],
        level_of: Callable[[float], OffGrid],
        graphs: Graphs,
        branches: Callable[[], Branches],
        replay: Replay,
        mixing: Mixing | None = None,
        composition: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(memo, templates)
        self.probe, self.solver, self.rows, self._ask = probe, solver, rows, ask
        self.readings = probe.readings
        self.composition, self.replay = composition, replay
        self.prompts: tuple[int, ...] = ()
        self.evaluations = 0
        self.after_real_step = self.replaying = self.jumped = False
        self.leading = True  # this pass evaluates nothing, it leads up to the batch that is asked next
        self.level_of, self.graphs, self.branches, self.mixing = level_of, graphs, branches, mixing
        self._branch: str | None = None
        self._calls = 0  # of a denoiser in this iteration
        self._only: Any = (
            None  # the output of the one branch that is wanted, where each has a call of its own
        )
        self._again = False  # this iteration only hands that on
        self._batch: Batch | None = None
        self._handed: Tensor | None = None
        self._kept = GatherCache()
        self._parts: Generator[tuple[Tensor, tuple[int, ...]], tuple[Tensor, Tensor], Output] | None = None

    def source(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    @property
    def graph(self) -> bool:
        return not self.leading and self._batch is not None and self._batch.grad

    def ask(self, output: Output | None) -> Batch:
        self.solver.stepped.clear()
        with self.parked():
            return self._ask(output)

    def first_index(self) -> int:
        batch = self._batch = self.ask(None)
        if self.probe.edits and not (self.probe.drifts and batch.step):
            return batch.step - 1
        return 0

    def evaluate(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.leading or self.index == len(self.probe.evaluations):
            return self.templates.skip(name, module, forward, args, kwargs)
        sample = sample_of(args, kwargs)
        rows = rows_of(sample)
        if self.prompts != tuple(range(self.rows)) and self.composition is None:
            gather = Gather(self.rows, self.prompts, sample)
            args = tuple(self._kept(gather, name, str(i), a) for i, a in enumerate(args))
            kwargs = {k: self._kept(gather, name, k, v) for k, v in kwargs.items()}
        if self._branch is not None and is_denoiser(name):
            return self._one_branch(name, module, forward, args, kwargs)
        output = self._forward(name, module, forward, args, kwargs)
        if is_denoiser(name):
            self.evaluations += rows
        if name not in self.templates.known:  # without the graph, which must not outlive the batch
            kept = zeros_like(output, rows, rows) if self.graph else output
            self.templates.known[name] = (kept, rows)
        return output

    def _forward(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """A model's call, by the model that the batch asks for, and with its graph if it asks for one."""
        run, batch = forward, self._batch
        if batch is not None and batch.model and is_denoiser(name):
            assert self.mixing is not None
            variant = self.mixing.variants[batch.model]

            def run(*args: Any, **kwargs: Any) -> Any:
                return variant(name, module, forward, args, kwargs)

        if batch is not None and self.graph:
            return self.graphs.call(run, args, kwargs, batch.checkpoint)
        return run(*args, **kwargs)

    def _one_branch(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Evaluate one branch, and give its output for the other, too: what the pipeline makes of both is just that."""
        branches, sample = self.branches(), sample_of(args, kwargs)
        assert self._branch is not None
        place, n, number = branches.place(self._branch), len(self.prompts), self._calls
        self._calls += 1
        if branches.together:
            part = BranchRows(place, n, sample)
            args, kwargs = tuple(part(a) for a in args), {k: part(v, k) for k, v in kwargs.items()}
            self.evaluations += n
            return doubled(self._forward(name, module, forward, args, kwargs), n)
        if self._only is None and number == place:
            self.evaluations += n
            self._only = self._forward(name, module, forward, args, kwargs)
        return self.templates.skip(name, module, forward, args, kwargs) if self._only is None else self._only

    def after_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        if self.leading:
            return self._lead(call["sample"])
        assert self._parts is not None
        calls, self._calls = self._calls, 0
        if self._only is not None and calls and not self.branches().together:
            if self.branches().place(self._branch or "") == 1 and not self._again:
                self._again = True  # the first call was made before the output was known
                self.after_real_step = self.replaying = self.jumped = False
                return call["sample"], self.index
            self._only, self._again = None, False
        layout = self.probe.layout
        with torch.set_grad_enabled(self.graph):
            value, x = layout.rows_first(call["model_output"]), layout.rows_first(call["sample"])
            if x.shape[0] != len(self.prompts) or value.shape[0] != len(self.prompts):
                raise NotElastic
            self.after_real_step = self.index < len(self.probe.evaluations)
            self.replaying = self.jumped = False
            self.solver.call = call
            answer = self._answered(value, x)
        if isinstance(answer, Tensor):
            return answer, self.index
        batch = self._batch = self.ask(answer)
        self.jumped = batch.step != self.index + 1
        if self.jumped and self.probe.edits:
            self.leading = True
            return layout.laid_out(batch.x.detach()), batch.step - 1
        return self._open(batch), batch.step

    def _answered(self, value: Tensor, x: Tensor) -> Tensor | Output:
        """The latents of the batch's next part, or after the last its answer."""
        assert self._parts is not None
        try:
            latents, self.prompts = self._parts.send((value, x))
        except StopIteration as finished:
            output: Output = finished.value
            return output
        return self.probe.layout.laid_out(latents)

    def _lead(self, sample: Tensor) -> tuple[Tensor, int | None]:
        """A pass that evaluates nothing, up to the step of the batch; callbacks that change the loop are called."""
        batch = self._batch
        assert batch is not None
        self.after_real_step, self.replaying = False, self.probe.drifts and batch.step > 0
        if self.replaying and self.index + 1 < batch.step:
            return sample, self.index + 1
        latents = self._open(batch)
        self._handed = latents if self.probe.edits and batch.step == 0 else None
        return latents, batch.step

    def end_of_step(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """What the pipeline's end-of-step callback answers: after a pass that only led up to step 0, the
        latents as they are, without what the loop makes of latents between two steps.

        Where callbacks change the loop, only a new visit can bring it to where it is at another step.
        """
        if self.jumped and self.probe.drifts:
            raise Done
        if self._handed is not None:
            tensors = tensors | {"latents": self._handed}
            self._handed = None
        return tensors

    def _open(self, batch: Batch) -> Tensor:
        if self.composition is not None and batch.prompts != self.composition:
            raise NotElastic
        if not self._goes_on(batch) or batch.branch is not None or self.mixing is not None:
            forget_caches(self.pipe)
        self.leading, self._batch, self._branch = False, batch, batch.branch
        if self._branch is not None and self.probe.edits and not self.branches().together:
            raise UsageError(
                f"{type(self.pipe).__name__} edits latents in its loop and evaluates the branches of guidance one "
                "after the other: they cannot be asked for alone."
            )
        self.off_grid = None if batch.time is None else self.level_of(batch.time)
        self._parts = self._in_parts(batch)
        with torch.set_grad_enabled(batch.grad):
            latents, self.prompts = next(self._parts)
            return self.probe.layout.laid_out(latents)

    def _goes_on(self, batch: Batch) -> bool:
        """Whether the batch is just what was made of the last one: then cached models may remember it."""
        made = self.solver.stepped
        if not made or sum(len(x) for x in made) != len(batch.x):
            return False
        return not self.cached or torch.equal(batch.x, _join(made))

    def _in_parts(
        self, batch: Batch
    ) -> Generator[tuple[Tensor, tuple[int, ...]], tuple[Tensor, Tensor], Output]:
        """A batch with as many rows as the call, but not its prompts in order, goes in two parts.

        With equal counts one could not tell conditioning, to be gathered, from what the loop made of the
        latents, to be left alone.
        """
        n, self.evaluations = len(batch.prompts), 0
        clash = n == self.rows and batch.prompts != tuple(range(n)) and self.composition is None
        values, seen = [], []
        for part in (slice(0, n - 1), slice(n - 1, n)) if clash else (slice(0, n),):
            if clash:
                forget_caches(self.pipe)
            value, x = yield formatted(batch.x[part], self.probe.latents), batch.prompts[part]
            values.append(value)
            seen.append(x)
        return Output(_join(values), _join(seen), self.evaluations)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
