"""Batches whose rows are at different steps: each row gets the timestep and the scaling of its own step.

How such a batch is served, in the loop of a pipeline that works on one step at a time:

1. The engine finds that rows of other steps would fill a batch (`Engine.could_mix`). The pipeline call that serves is
   left then, and `step_study.py` tries whether the loop depends on the step beyond timesteps and scaling. Where it
   does, batches hold one step each, as before.
2. The loop runs at the step of the batch's first row. `scale_model_input` scales each row as the scheduler does at the
   row's own step, and the models' timesteps are replaced by one for each row, read off the study.
3. Before the first such batch each denoiser is measured: two of its rows at the first and the last timestep of the run,
   together and each alone, must agree to rounding (`_takes_a_step_a_row`). Where batches are filled up for graphs of
   one shape, so are these calls. A model that takes one timestep for all rows,
   or fails, ends mixed batches for this call. What was found about a model is kept for later calls.
4. Each query's rows are then stepped by copies of the scheduler at their own step, with the arguments that the loop
   gives to `scheduler.step` there.

So what a row gets differs from that in a batch of one step by rounding only, as it does between batch sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from genscale.engine.ledger import Ledger
from genscale.pipelines.argument_values import tensors_of
from genscale.pipelines.row_gather import Gather, rows_of, sample_of
from genscale.pipelines.row_mixing import close
from genscale.pipelines.step_study import Place, Steps, Timesteps
from genscale.pipelines.watched_models import is_denoiser

Forward = Callable[..., Any]

_measured: WeakKeyDictionary[nn.Module, dict[tuple[tuple[str, int], ...], bool]] = WeakKeyDictionary()


class StepsStayApart(Exception):
    """A model of the loop does not take a timestep for each row, or the rows that it gets are not the batch's."""


class RowSteps:
    """The steps of the rows of one batch part.

    steps: what the loop does at each step. at: the step of each latent [n].
    """

    def __init__(self, steps: Steps, at: tuple[int, ...]) -> None:
        self.steps, self.at = steps, at

    def scaled(self, proxy: Any, sample: Any, more: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        """`scale_model_input` for latents [copies of guidance x n, ...]. StepsStayApart: they have other rows."""
        n = len(self.at)
        if not isinstance(sample, Tensor) or sample.shape[0] % n or not self.steps.scaling:
            raise StepsStayApart
        at = torch.tensor(self.at).repeat(sample.shape[0] // n)
        out: Tensor | None = None
        for step in sorted(set(self.at)):
            scheduler, more, named = self.steps.scaling[step]
            rows = (at == step).nonzero()[:, 0].to(sample.device)
            part = scheduler.scale_model_input(sample[rows], *more, **named)
            out = part.new_empty(sample.shape) if out is None else out
            out[rows] = part
        assert out is not None
        return out

    def arguments(self, place: Place, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a model call with a timestep for each row."""
        return with_timesteps(self.steps.timesteps.get(place, {}), self.at, args, kwargs)

    def given(
        self, place: Place, module: nn.Module, forward: Forward, args: Any, kwargs: Any, ledger: Ledger
    ) -> tuple[Any, Any]:
        """`arguments` of a model that was checked, whose measurement the ledger counts."""
        rows = self.check(place, module, forward, args, kwargs)
        if is_denoiser(place[0]):
            ledger.probes += rows
            ledger.evaluations += rows
        return self.arguments(place, args, kwargs)

    def check(self, place: Place, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> int:
        """Measure a model once; the rows that it evaluated. StepsStayApart: it takes no timestep for each row."""
        timesteps = self.steps.timesteps.get(place)
        if timesteps is None:
            raise StepsStayApart
        if not timesteps:
            return 0
        kind = tuple(sorted((name, entries) for name, (_, entries) in timesteps.items()))
        known = _measured.setdefault(module, {})
        if kind in known:
            rows = 0
        else:
            known[kind], rows = self._takes_a_step_a_row(place, forward, args, kwargs)
        if not known[kind]:
            raise StepsStayApart
        return rows

    def _takes_a_step_a_row(self, place: Place, forward: Forward, args: Any, kwargs: Any) -> tuple[bool, int]:
        """Whether two rows at the first and the last step get together what they get alone, and the rows evaluated.

        In calls of one size: what they get where all rows are at their step.
        """
        n, last, rows = len(self.at), len(self.steps.calls) - 1, 0
        timesteps = self.steps.timesteps[place]

        def evaluated(latents: tuple[int, ...], at: tuple[int, ...]) -> list[Tensor]:
            nonlocal rows
            given = with_timesteps(timesteps, at, *chosen(n, latents, args, kwargs))
            rows += rows_of(sample_of(*given))
            return tensors_of(forward(*given[0], **given[1]))

        pair, everything = (0, n - 1), tuple(range(n))
        try:
            with torch.no_grad():
                if self.steps.one_size and not isinstance(sample_of(args, kwargs), list):
                    uniform = [evaluated(everything, (s,) * n) for s in (0, last)]
                    both = evaluated(everything, (*(0,) * (n - 1), last))
                    found = zip(pair, uniform, strict=True)
                    return all(same_latent(both, i, n, one, i, n) for i, one in found), rows
                alone = [evaluated((i,), (s,)) for i, s in zip(pair, (0, last), strict=True)]
                both = evaluated(pair, (0, last))
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception:  # whatever it is: the model is then given one timestep, as in the pipeline alone
            return False, rows
        agree = all(same_latent(both, i, 2, one, 0, 1) for i, one in enumerate(alone))
        return agree, rows


def chosen(n: int, latents: tuple[int, ...], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a model call with `n` latents, for some of these only. NeedsRowPerLatent: it is not clear."""
    sample = sample_of(args, kwargs)
    rows = [block * n + i for block in range(rows_of(sample) // n) for i in latents]
    some = [sample[i] for i in rows] if isinstance(sample, list) else sample[rows]
    gather = Gather(n, latents, some)
    args = tuple(some if a is sample else gather(a, str(i)) for i, a in enumerate(args))
    return args, {k: some if v is sample else gather(v, k) for k, v in kwargs.items()}


def with_timesteps(
    timesteps: Timesteps, at: tuple[int, ...], args: Any, kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a model call with the timesteps of the steps `at` of its latents, ordered [guidance, latent].

    Of one latent they have the form that the pipeline gives them.
    """
    blocks = rows_of(sample_of(args, kwargs)) // len(at)
    args, kwargs = list(args), dict(kwargs)
    for name, (values, entries) in timesteps.items():
        value = values[list(at)].repeat(entries or blocks)
        if not entries and len(at) == 1:
            value = value[0]
        if name.isdecimal():
            args[int(name)] = value
        else:
            kwargs[name] = value
    return tuple(args), kwargs


def same_latent(one: list[Tensor], i: int, n: int, other: list[Tensor], j: int, m: int) -> bool:
    """Whether latent i of the n in an output has what latent j of the m in another has, to rounding.

    Outputs are ordered [guidance, latent]. Of the same number of latents they may hold tensors without rows.
    """
    if len(one) != len(other):  # lists with one entry a row
        one, other = one[i::n], other[j::m]
    if len(one) != len(other) or not one:
        return False
    for a, b in zip(one, other, strict=True):
        if a.ndim and b.ndim and (n == m or a.shape != b.shape) and len(a) % n == 0 == len(b) % m:
            a, b = a[i::n], b[j::m]
        if a.shape != b.shape or not close(a, b):
            return False
    return True
