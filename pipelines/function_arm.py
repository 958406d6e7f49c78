"""Candidates made by calls of a function, or of a pipeline as a whole: one call for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from genscale.engine.failures import CALL
from genscale.pipelines.candidate_randomness import Randomness
from genscale.pipelines.generated_media import pixels_of
from genscale.pipelines.generator_signature import Signature
from genscale.pipelines.remote_failures import remote_failure
from genscale.protocol.particles import Candidate

Row = tuple[int, Candidate]
"""(prompt index, candidate)."""
Made = Tensor | tuple[str, str]
"""Pixels of an image or video, or (where, what) of a failure."""

AT_ONCE = "calls_at_once"
"""Attribute of a function that may be called in several threads: how many calls it bears at once."""


@dataclass(frozen=True)
class FunctionArm:
    """One configuration of a function.

    given: the arguments of each prompt's call, without its generator or seed. nfe: what one call counts.
    """

    function: Callable[..., Any]
    signature: Signature
    given: tuple[Mapping[str, Any], ...]
    randomness: Randomness
    nfe: int = 1

    @property
    def at_once(self) -> int:
        """How many candidates may be made together."""
        found = getattr(self.function, AT_ONCE, 1)
        return found if isinstance(found, int) and found > 0 else 1

    def make(self, rows: Sequence[Row]) -> list[Made]:
        """In the order of the rows. What the function raises comes through, unless a remote service failed."""
        if len(rows) == 1:
            with self.randomness.calling(*rows[0]):
                return [self._made(rows[0])]
        with ThreadPoolExecutor(len(rows), thread_name_prefix="genscale-call") as pool:
            return list(pool.map(self._made, rows))

    def _made(self, row: Row) -> Made:
        prompt, candidate = row
        arguments = {**self.given[prompt], **self.randomness.arguments(prompt, candidate)}
        try:
            output = self.function(**arguments)
        except Exception as error:
            failed = remote_failure(error)
            if failed is None:
                raise
            return CALL, failed
        return pixels_of(output, self.signature.name)
