"""One branch of classifier-free guidance evaluated alone, in the loop of a pipeline that evaluates both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genscale.pipelines.branches import Branches, BranchRows, doubled
from genscale.pipelines.row_gather import sample_of


class OneBranch:
    """The branch of one batch. Its output is returned for both branches: what the pipeline combines is that output.

    branches: how the pipeline evaluates the two. branch: the one that is wanted. n: latents of the batch.
    """

    def __init__(self, branches: Branches, branch: str) -> None:
        self.branches, self.place = branches, branches.place(branch)
        self._output: Any = None  # where the pipeline calls the denoiser for each branch
        self._calls = 0  # of the denoiser in this iteration of the loop
        self._repeating = False  # this iteration hands the output to the pipeline for both branches

    def __call__(
        self,
        n: int,
        args: Any,
        kwargs: Any,
        evaluate: Callable[[Any, Any], Any],
        placeholder: Callable[[], Any],
    ) -> tuple[Any, int]:
        """What a call of the denoiser returns, and the NFE that it took. n: latents under evaluation."""
        number, self._calls = self._calls, self._calls + 1
        if self.branches.together:
            part = BranchRows(self.place, n, sample_of(args, kwargs))
            args, kwargs = tuple(part(a) for a in args), {k: part(v, k) for k, v in kwargs.items()}
            return doubled(evaluate(args, kwargs), n), n
        nfe = 0
        if self._output is None and number == self.place:
            self._output, nfe = evaluate(args, kwargs), n
        return (placeholder() if self._output is None else self._output), nfe

    def must_repeat(self) -> bool:
        """Whether the loop's iteration must run once more: the first of two branch calls had no output to return."""
        calls, self._calls = self._calls, 0
        if self._output is None or not calls or self.branches.together:
            return False
        if self.place == 1 and not self._repeating:
            self._repeating = True
            return True
        self._output, self._repeating = None, False
        return False
