"""Candidates made by calls of a function, or of a pipeline as a whole: one call for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from genscale.engine.failures import CALL
from genscale.errors import UsageError
from genscale.pipelines.arms import ArmSettings
from genscale.pipelines.candidate_randomness import Randomness
from genscale.pipelines.generated_media import item_of
from genscale.pipelines.generator_call import GeneratorCall
from genscale.pipelines.generator_signature import Signature
from genscale.pipelines.loading import makes_videos
from genscale.pipelines.remote_failures import remote_failure
from genscale.protocol.particles import Candidate

Row = tuple[int, Candidate]
"""(prompt index, candidate)."""
Made = Tensor | str | tuple[str, str]
"""Pixels of an image or video, a text, or (where, what) of a failure."""

AT_ONCE = "calls_at_once"
"""Attribute of a function that may be called in several threads: how many calls it bears at once."""


@dataclass(frozen=True)
class FunctionArm:
    """One configuration of a function.

    name: of the function. given: the arguments of each prompt's call, without its generator or seed. nfe: what one call
    counts. around: what holds while it is called. of_frames: several images that it returns are a video's frames.
    """

    function: Callable[..., Any]
    name: str
    given: tuple[Mapping[str, Any], ...]
    randomness: Randomness
    nfe: int = 1
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    of_frames: bool = False

    @property
    def at_once(self) -> int:
        """How many candidates may be made together."""
        found = getattr(self.function, AT_ONCE, 1)
        return found if isinstance(found, int) and found > 0 else 1

    def make(self, rows: Sequence[Row]) -> list[Made]:
        """In the order of the rows. What the function raises comes through, unless a remote service failed."""
        if len(rows) == 1:
            with self.randomness.calling(*rows[0]), self.around():
                return [self._made(rows[0])]
        pool = ThreadPoolExecutor(len(rows), thread_name_prefix="genscale-call")
        try:
            with self.around():
                return list(pool.map(self._made, rows))
        finally:  # after an interrupt nothing is waited for
            pool.shutdown(wait=False, cancel_futures=True)

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
        return item_of(output, self.name, self.of_frames)


def function_arms(call: GeneratorCall, arms: Sequence[Mapping[str, Any]]) -> list[FunctionArm]:
    """How a candidate of each arm is made. UsageError: an arm changes what cannot be changed."""
    return [_arm(call, arm) for arm in arms or ({},)]


def _arm(call: GeneratorCall, arm: Mapping[str, Any]) -> FunctionArm:
    made = ArmSettings.of(
        call.function, arm, lambda f, name: Signature.of(f).takes(name), call.signature.parameters
    )
    name, what = Signature.of(made.function).name, call.randomness.name
    if not Signature.of(made.function).takes(what):
        raise UsageError(
            f"the model of an arm, {name}, takes no {what}, as the other arms do: let it take one."
        )
    given = [{**before, **made.changes} for before in call.of_each_prompt()]
    for arguments in given:
        if isinstance(arguments.get("prompt"), str):
            arguments["prompt"] = made.prompt(arguments["prompt"])
    return FunctionArm(
        made.function,
        name,
        tuple(given),
        call.randomness,
        made.nfe or 1,
        made.applied,
        makes_videos(made.function),
    )
