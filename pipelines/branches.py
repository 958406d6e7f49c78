"""The branches of classifier-free guidance: which of a step's rows are conditional, and how to evaluate one branch.

Pipelines evaluate both branches in one call of the denoiser (rows [uncond, cond], or the other way round) or in two
calls. They combine them linearly, with weights that add up to 1, so two equal outputs are combined to that output. To
evaluate one branch alone, its output is returned for the other branch, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genscale.errors import UsageError
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.intercepted_call import LeaveLoop, LoopDriver
from genscale.pipelines.probe import Probe
from genscale.pipelines.row_gather import is_position, rows_of, sample_of
from genscale.pipelines.watched_models import PlaceholderOutputs, is_denoiser


@dataclass(frozen=True)
class Branches:
    """How a pipeline evaluates the two branches.

    together: both in one call of the denoiser. cond: 0 or 1, the place of the conditional branch.
    """

    together: bool
    cond: int

    def place(self, branch: str) -> int:
        """0 or 1, for "cond" or "uncond"."""
        return self.cond if branch == "cond" else 1 - self.cond


class BranchProbe(LoopDriver):
    """Runs one step with made-up outputs: a fixed pattern in the branches `filled`, zeros in the others.

    probe: of the call. step: the one to run. rows: of the call.

    Afterwards: calls, the rows of every call of a denoiser in that step; value, what the pipeline combined.
    """

    def __init__(
        self,
        encoder_cache: EncoderCache,
        placeholders: PlaceholderOutputs,
        probe: Probe,
        step: int,
        rows: int,
        filled: tuple[int, ...],
    ) -> None:
        super().__init__(encoder_cache, placeholders)
        self.probe, self.replay, self.layout = probe, probe.replay_for(None), probe.layout
        self.probed, self.rows, self.filled = step, rows, filled
        self.calls: list[int] = []
        self.value: Tensor | None = None

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    def first_step(self) -> int:
        return self.probed

    def scheduler_state(self, step: int) -> Mapping[str, Any]:
        return self.probe.state_at(step)

    def call_model(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = self.placeholders.get(name, module, forward, args, kwargs)
        if not is_denoiser(name):
            return output
        rows, before = rows_of(sample_of(args, kwargs)), sum(self.calls)
        self.calls.append(rows)
        filled = [i for i in range(rows) if (before + i) // self.rows in self.filled]
        return _with_pattern(output, rows, filled)

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        self.value = self.layout.to_rows(call["model_output"]).detach().float()
        raise LeaveLoop


def _with_pattern(output: Any, rows: int, filled: list[int]) -> Any:
    """The structure of an output, with a pattern of positive numbers in the rows `filled` and zeros in the others."""
    if isinstance(output, Tensor):
        made = torch.zeros_like(output)
        if made.ndim and made.shape[0] % rows == 0:
            parts = made.reshape(rows, -1)
            parts[filled] = torch.linspace(0.5, 1.5, parts.shape[1]).to(parts)
        return made
    if isinstance(output, dict):
        fields = {k: _with_pattern(v, rows, filled) for k, v in output.items()}
        return type(output)(**fields) if type(output) is not dict else fields
    if type(output) is list and len(output) == rows:
        return [_with_pattern(x[None], 1, [0] if i in filled else [])[0] for i, x in enumerate(output)]
    if isinstance(output, list | tuple):
        return type(output)(_with_pattern(v, rows, filled) for v in output)
    return output


def identify_branches(both: BranchProbe, second: BranchProbe, rows: int) -> Branches:
    """How a pipeline evaluates its branches, from a probe with the pattern in both and one with it in the second only.

    With guidance u + w (c - u), w > 1, the second alone gives w times the pattern if it is the conditional one, else
    1 - w times. The sign of that factor holds also where a pipeline rescales the result or negates it.
    """
    if sum(both.calls) != 2 * rows or len(both.calls) > 2:
        raise UsageError(
            f"a step of {sum(both.calls) // rows or 'no'} model calls a row in place of 2 has no two branches of "
            "classifier-free guidance: give the call a guidance scale above 1 (and a negative prompt, where the "
            "pipeline wants one for that), or a modular pipeline a guider such as ClassifierFreeGuidance."
        )
    assert both.value is not None
    assert second.value is not None
    whole, part = both.value.flatten(), second.value.flatten()
    share = float(part @ whole / (whole @ whole))
    return Branches(len(both.calls) == 1, int(share > 0.5))


class BranchRows:
    """Selects the rows of one branch in what the denoiser is given for both.

    place: 0 or 1, the branch. n: rows of one branch. sample: the denoiser's latents, of both branches.
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
            # HiDream stacks text layers in the first dimension, before the rows
            return value[:, self.place * self.n : (self.place + 1) * self.n]
        inner, rest = divmod(value.shape[0], 2 * self.n)
        if rest or (inner != 1 and not (value.ndim >= 3 and inner in self.sizes)):
            return value
        size = self.n * inner
        return value[self.place * size : (self.place + 1) * size]


def doubled(output: Any, n: int) -> Any:
    """A denoiser's output for n rows in the structure of 2 n rows: all rows, then all rows again."""
    if isinstance(output, Tensor):
        return torch.cat([output, output]) if output.ndim and output.shape[0] % n == 0 else output
    if isinstance(output, dict):
        fields = {k: doubled(v, n) for k, v in output.items()}
        return type(output)(**fields) if type(output) is not dict else fields
    if type(output) is list and len(output) == n:
        return [*output, *output]
    if isinstance(output, list | tuple):
        return type(output)(doubled(v, n) for v in output)
    return output
