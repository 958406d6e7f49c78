"""A search on a generator that is called as a whole: any `function(prompt=..., generator=... or seed=...)`.

The engine is that of a pipeline. A candidate's only step is the call, and what it carries in the place of latents is
the digest of what the call made (`black_box_process`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from genscale.engine.archive import Entry
from genscale.engine.drive import drive
from genscale.engine.engine import Engine
from genscale.engine.ledger import Ledger
from genscale.key import Key
from genscale.media import Media
from genscale.pipelines.black_box_process import call_process
from genscale.pipelines.function_arm import Made, Row
from genscale.pipelines.generated_media import media_of
from genscale.pipelines.search_settings import SearchSettings
from genscale.protocol.batches import Batch, Output
from genscale.protocol.particles import arm_of
from genscale.protocol.queries import Score
from genscale.results.run_description import RunDescription
from genscale.storage.media_store import FOLDER, STORED, MediaStore, missing


class Source(Protocol):
    """What is called, and with what: how a host of whole calls describes itself (see `search_call.Host`)."""

    name: str
    texts: list[str]
    seeds: list[int]
    results: int

    def key(self, row: int) -> Key: ...
    def heading(self, settings: SearchSettings, complete: bool = True) -> dict[str, Any]: ...
    def changed(self, heading: dict[str, Any], settings: SearchSettings) -> dict[str, str]: ...
    def describe(self, settings: SearchSettings, heading: dict[str, Any]) -> RunDescription: ...


class Arm(Protocol):
    """How candidates of one configuration are made. nfe: of one. at_once: how many may be made together."""

    @property
    def nfe(self) -> int: ...
    @property
    def at_once(self) -> int: ...
    def make(self, rows: Sequence[Row]) -> Sequence[Made]:
        """In the order of the rows."""


class BlackBoxCall:
    """Whole calls as what a search runs on (implements `search_call.Host`).

    arms: how a candidate of each configuration is made; at least one.
    """

    engine: type[Engine] = Engine

    def __init__(self, settings: SearchSettings, source: Source, arms: Sequence[Arm]) -> None:
        self.source, self.arms, self.texts, self.seeds = source, arms, source.texts, source.seeds
        self.results, self.key, self.changed = source.results, source.key, source.changed
        self.at_once = min(settings.batch_size, *(arm.at_once for arm in arms))
        self.ledger, self.store = Ledger(), MediaStore(settings.out)

    def processes(self) -> list[dict[str, Any]]:
        process = call_process(self.source.name, tuple(arm.nfe for arm in self.arms), self.at_once)
        return [dict(process) for _ in self.texts]

    def heading(self, settings: SearchSettings, complete: bool = True) -> dict[str, Any]:
        return {**self.source.heading(settings, complete), STORED: FOLDER}

    def describe(self, settings: SearchSettings, heading: dict[str, Any]) -> RunDescription:
        return replace(self.source.describe(settings, heading), store=self.store)

    def sizes(self, settings: SearchSettings) -> tuple[int, int | None]:
        """A kill loses what is being called, so no more is called than runs at once."""
        return self.at_once, settings.decode_batch

    def previews(self, settings: SearchSettings) -> None:
        """None: a call as a whole has nothing to show before it is over."""

    def serve(self, engine: Engine, settings: SearchSettings) -> str | None:
        def evaluate(batch: Batch) -> Output:
            self._forget(engine)
            started = time.perf_counter()
            rows = engine.evaluated
            arm = self.arms[arm_of(rows[0][1])]
            made = arm.make(rows)
            engine.ledger.add_seconds("denoise", time.perf_counter() - started)
            faults = {i: fault for i, fault in enumerate(made) if isinstance(fault, tuple)}
            kept = [missing() if isinstance(m, tuple) else self.store.put(m) for m in made]
            return Output(torch.stack(kept), batch.x, arm.nfe * len(rows), faults=faults)

        try:
            drive(engine, evaluate)
        except KeyboardInterrupt:
            return engine.interrupted()
        return None

    def _forget(self, engine: Engine) -> None:
        """Keep in memory what is among the best or still under way; the archive's files stay."""
        kept = [e.x for search in engine.searches for e in search.finals if e.x is not None]
        for search in engine.searches:
            waiting = [search.particles] if isinstance(search.query, Score) else search.arrived
            kept += [x for particles in waiting for x in particles.x if bool(x.isfinite().all())]
        self.store.keep_only(kept)

    def decode(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        return media_of([self.store.get(digest) for digest in latents], self.source.name)

    def media(self, entries: Sequence[Entry]) -> Media:
        return self.decode(torch.stack([e.x for e in entries if e.x is not None]), ())
