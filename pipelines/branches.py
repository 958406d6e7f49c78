"""The branches of classifier-free guidance: which of a step's rows are conditional, and how to ask for one alone.

Pipelines evaluate both branches in one call of the denoiser (its rows are [uncond, cond], or the other way round)
or in two calls. What they combine them to is linear in each, so what they make of two equal outputs is that output:
one branch alone is what comes out when its output stands in for the other's, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genscale.errors import UsageError
from genscale.pipelines.encoder_cache import Memo
from genscale.pipelines.intercepted_call import Done, LoopDriver, Templates, is_denoiser
from genscale.pipelines.latent_layout import Layout
from genscale.pipelines.noise_interception import Replay
from genscale.pipelines.row_gather import is_position, rows_of, sample_of


@dataclass(frozen=True)
class Branches:
    """How a pipeline evaluates the two: in one call or two, and which comes first.

    together: both in one call of the denoiser. cond: 0 or 1, the place of the conditional one.
    """

    together: bool
    cond: int

    def place(self, branch: str) -> int:
        """0 or 1, for "cond" or "uncond"."""
        return self.cond if branch == "cond" else 1 - self.cond


class BranchProbe(LoopDriver):
    """One pass over one step, with made-up outputs: a pattern in the branches `filled`, zeros in the others.

    Afterwards: calls, the rows of every call of a denoiser in that step; value, what the pipeline combined.
    """

    def __init__(
        self,
        memo: Memo,
        templates: Templates,
        replay: Replay,
        layout: Layout,
        step: int,
        rows: int,
        filled: tuple[int, ...],
    ) -> None:
        super().__init__(memo, templates)
        self.replay, self.layout, self.at, self.rows, self.filled = replay, layout, step, rows, filled
        self.calls: list[int] = []
        self.value: Tensor | None = None

    def source(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    def first_index(self) -> int:
        return self.at

    def evaluate(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = self.templates.skip(name, module, forward, args, kwargs)
        if not is_denoiser(name):
            return output
        rows, before = rows_of(sample_of(args, kwargs)), sum(self.calls)
        self.calls.append(rows)
        marks = [i for i in range(rows) if (before + i) // self.rows in self.filled]
        return _patterned(output, rows, marks)

    def after_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        self.value = self.layout.rows_first(call["model_output"]).detach().float()
        raise Done


def _patterned(output: Any, rows: int, marks: list[int]) -> Any:
    """The structure with a fixed pattern of positive numbers in some of its rows, zeros in the others."""
    if isinstance(output, Tensor):
        made = torch.zeros_like(output)
        if made.ndim and made.shape[0] % rows == 0:
            parts = made.reshape(rows, -1)
            parts[marks] = torch.linspace(0.5, 1.5, parts.shape[1]).to(parts)
        return made
    if isinstance(output, dict):
        filled = {k: _patterned(v, rows, marks) for k, v in output.items()}
        return type(output)(**filled) if type(output) is not dict else filled
    if type(output) is list and len(output) == rows:
        return [_patterned(x[None], 1, [0] if i in marks else [])[0] for i, x in enumerate(output)]
    if isinstance(output, list | tuple):
        return type(output)(_patterned(v, rows, marks) for v in output)
    return output


def told_apart(whole: BranchProbe, second: BranchProbe, rows: int) -> Branches:
    """Branches of a step, from what came of a pattern in both of its branches, and in the second alone.

    With guidance u + w (c - u), w > 1, the second alone gives w times the pattern if it is the conditional one, else
    1 - w times; also where the norm is put back afterwards, or the sign is turned.
    """
    if sum(whole.calls) != 2 * rows or len(whole.calls) > 2:
        raise UsageError(
            f"a step of {sum(whole.calls) // rows or 'no'} model calls a row in place of 2 has no two branches of "
            "classifier-free guidance: give the call a guidance scale above 1 (and a negative prompt, where the "
            "pipeline wants one for that)."
        )
    assert whole.value is not None
    assert second.value is not None
    both, one = whole.value.flatten(), second.value.flatten()
    share = float(one @ both / (both @ both))
    return Branches(len(whole.calls) == 1, int(share > 0.5))


class BranchRows:
    """One branch's rows of what both were given.

    n: rows of one branch. sample: the denoiser's latents, of both.
    """

    def __init__(self, place: int, n: int, sample: Any) -> None:
        self.place, self.n = place, n
        self.sizes = () if isinstance(sample, list) else tuple(sample.shape[1:])

    def __call__(self, value: Any, name: str = "") -> Any:
        if is_position(name):
            return value
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            return {k: self(v, str(k)) for k, v in value.items()}
        if isinstance(value, list) and len(value) == 2 * self.n:
            return value[self.place * self.n : (self.place + 1) * self.n]
        if type(value) in (list, tuple):
            return type(value)(self(v, name) for v in value)
        return value

    def _tensor(self, value: Tensor) -> Tensor:
        if value.ndim == 0:
            return value
        if value.ndim >= 4 and value.shape[1] == 2 * self.n and value.shape[2:] != self.sizes[1:]:
            return value[
                :, self.place * self.n : (self.place + 1) * self.n
            ]  # HiDream stacks text layers before rows
        inner, rest = divmod(value.shape[0], 2 * self.n)
        if rest or (inner != 1 and not (value.ndim >= 3 and inner in self.sizes)):
            return value
        size = self.n * inner
        return value[self.place * size : (self.place + 1) * size]


def doubled(output: Any, n: int) -> Any:
    """A denoiser's output for n rows in the structure of 2 n rows, each of them twice."""
    if isinstance(output, Tensor):
        return torch.cat([output, output]) if output.ndim and output.shape[0] % n == 0 else output
    if isinstance(output, dict):
        filled = {k: doubled(v, n) for k, v in output.items()}
        return type(output)(**filled) if type(output) is not dict else filled
    if type(output) is list and len(output) == n:
        return [*output, *output]
    if isinstance(output, list | tuple):
        return type(output)(doubled(v, n) for v in output)
    return output
