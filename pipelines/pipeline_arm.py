"""Arms of a pipeline: candidates of each configuration are made in the pipeline's own loop, as best_of_n makes them.

Each arm has a call of its own, with its own probe, noise and cost. Its candidates are run to the end by an engine that
scores nothing, and decoded; the search of all arms has them as pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from genscale.engine.archive import Archive
from genscale.engine.budget import Budget
from genscale.engine.engine import Engine
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.key import Key
from genscale.pipelines.arms import ArmSettings
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.decode import Decoder
from genscale.pipelines.function_arm import Made, Row
from genscale.pipelines.loading import takes
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.pipeline_noise import generator_states, restore_generators
from genscale.pipelines.search_call import PipelineHost
from genscale.pipelines.search_settings import SearchSettings
from genscale.pipelines.serve import serve
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate
from genscale.protocol.queries import Query, Score, Solve
from genscale.results.run_description import RunDescription

_NO_ROLES = Roles()


@dataclass(frozen=True)
class GivenCandidates:
    """A sampler that finishes given candidates with the pipeline's own scheduler."""

    candidates: tuple[Candidate, ...]

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        finished = yield Solve(process.start(self.candidates))
        yield Score(finished)


class PipelineArm:
    """One configuration of a pipeline.

    given: the arguments of its call. texts: the prompts that they say, without what the arm makes of them. UsageError:
    they are refused.
    """

    def __init__(self, settings: SearchSettings, arm: ArmSettings, given: Mapping[str, Any]) -> None:
        self.arm, self.at_once = arm, settings.batch_size
        changed = {**given, **arm.changes}
        prompt = changed.get("prompt")
        if isinstance(prompt, str):
            changed["prompt"] = arm.prompt(prompt)
        elif prompt is not None:
            changed["prompt"] = [arm.prompt(text) for text in prompt]
        with arm.applied():
            arguments = Arguments(arm.function, (), changed)
            self.call = PipelineCall(arm.function, arguments, settings.mix, settings.models)
            self.processes = self.call.processes()
        self.texts = Arguments(settings.pipe, (), dict(given)).texts(self.call.rows)
        self.decoder = Decoder(self.call, with_callback=True)
        self.decode_batch = settings.decode_batch or settings.batch_size
        self.nfe = sum(self.processes[0]["evaluations"])

    def make(self, rows: Sequence[Row]) -> list[Made]:
        """Run the candidates to the end, and decode them. KeyboardInterrupt: the user interrupted the pipeline."""
        searches = [self._search(prompt, rows) for prompt in dict.fromkeys(prompt for prompt, _ in rows)]
        size = self.at_once if self.call.loop is None else self.call.loop.batch_size(self.at_once)
        engine = Engine(
            searches, _NO_ROLES, self.decoder.media, budget=Budget(), archive=Archive(), ledger=self.call.ledger,
            batch_size=size,
        )  # fmt: skip
        with self.arm.applied():
            if serve(self.call, engine, self.decoder.for_unfinished().media) is not None:
                raise KeyboardInterrupt
            return self._decoded(rows, {s.index: s for s in searches})

    def _search(self, prompt: int, rows: Sequence[Row]) -> Search:
        own = tuple(candidate for p, candidate in rows if p == prompt)
        return Search.open(
            prompt, self.call.texts[prompt], GivenCandidates(own), self.call.key(prompt), Budget(), _NO_ROLES,
            keep=len(own), results=len(own), **self.processes[prompt],
        )  # fmt: skip

    def _decoded(self, rows: Sequence[Row], searches: Mapping[int, Search]) -> list[Made]:
        found: list[Any] = []
        for prompt, candidate in rows:
            search = searches[prompt]
            entry = next((e for e in search.finals if e.candidate.id == candidate.id), None)
            failure = search.failures.of(candidate)
            found.append((failure.where, failure.what) if entry is None and failure is not None else entry)
        alive = [i for i, made in enumerate(found) if not isinstance(made, tuple)]
        for start in range(0, len(alive), self.decode_batch):
            some = alive[start : start + self.decode_batch]
            latents = torch.stack([found[i].x for i in some])
            pixels = self.decoder.media(latents, tuple(rows[i][0] for i in some)).pixels
            for i, made in zip(some, pixels, strict=True):
                found[i] = made.detach().cpu()
        return found


class PipelineSource(PipelineHost):
    """A call of a pipeline with arms, as their host describes it: that of the first, with the call's own prompts."""

    def __init__(self, arm: PipelineArm) -> None:
        super().__init__(arm.call, arm.decoder)
        self.name, self.texts = type(arm.call.pipe).__name__, list(arm.texts)

    def key(self, row: int) -> Key:
        earlier = self.texts[:row].count(self.texts[row])
        return Key.from_seed(self.seeds[row]).fold("prompt", self.texts[row], earlier)

    def heading(self, settings: SearchSettings, complete: bool = True) -> dict[str, Any]:
        return {**super().heading(settings, complete), "prompts": self.texts}

    def describe(self, settings: SearchSettings, heading: dict[str, Any]) -> RunDescription:
        found = super().describe(settings, heading)
        return replace(found, request={**found.request, "prompts": self.texts})


def pipeline_arms(
    settings: SearchSettings,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    arms: Sequence[Mapping[str, Any]],
) -> list[PipelineArm]:
    """The arms of a call. UsageError: one cannot be made, or has other prompts than the first."""
    first = Arguments(settings.pipe, args, dict(kwargs))
    generator, made = first.generator, list[PipelineArm]()
    states = generator_states(generator)
    given = dict(kwargs) | dict(zip(_positions(settings.pipe), args, strict=False))
    for arm in arms:
        restore_generators(generator, states)  # every arm's probe draws from it
        how = ArmSettings.of(settings.pipe, arm, lambda pipe, name: name in takes(pipe), takes(settings.pipe))
        made.append(PipelineArm(settings, how, given))
        if made[-1].call.rows != made[0].call.rows:
            raise UsageError("an arm makes other rows than the first: arms change how each prompt is made.")
    return made


def _positions(pipe: Any) -> tuple[str, ...]:
    from genscale.pipelines.call_signature import call_signature

    return call_signature(type(pipe)).positions
