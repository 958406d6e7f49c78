"""The settings of a search, as `genscale.scale` completes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genscale.diffusion.mixtures import Mix
from genscale.engine.budget import Budget
from genscale.engine.events import Event
from genscale.engine.holding import DEVICE
from genscale.engine.pool import check_pool
from genscale.engine.stopping import Stop
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.pipelines.batch_padding import AS_THEY_ARE
from genscale.pipelines.draft import Draft
from genscale.pipelines.pipeline_lock import WAIT
from genscale.protocol.interfaces import Sampler, SamplerHooks


def ignore(event: Event) -> None:
    pass


def never() -> bool:
    return False


@dataclass(frozen=True, eq=False)
class SearchSettings:
    """What `genscale.scale` was given, checked and completed; its docstring tells what each field is."""

    pipe: Any
    sampler: Sampler
    roles: Roles
    budget: Budget
    batch_size: int = 16
    decode_batch: int | None = None
    out: Path | None = None
    keep: int = 1
    on_event: Callable[[Event], None] = ignore
    stop: Stop | None = None
    mix: Mix | None = None
    models: Mapping[str, Any] = field(default_factory=dict)
    halt: Callable[[], bool] = never
    mix_given: Mapping[str, Any] = field(default_factory=dict)  # mix= and guide= as they were given
    busy: str = WAIT
    hold: str = DEVICE
    pool: bool = False
    pad_batches: str = AS_THEY_ARE
    draft: Draft | None = None
    executor: Any = None  # of pipelines.spread_host; None: this process
    preview: Any = False
    line: tuple[int | str, ...] = ()  # more of the path of every key, where one seed serves several searches

    def __post_init__(self) -> None:
        if self.pool:
            check_pool(self.sampler, self.budget, self.roles)
        if self.draft is not None:
            self._check_draft()

    def _check_draft(self) -> None:
        if self.pool:
            raise UsageError("drafts and a pooled budget do not go together: give draft= or pool=, not both.")
        if SamplerHooks.of(self.sampler).arms:
            raise UsageError("drafts and arms do not go together: give draft= or arms, not both.")
        if not self.roles.judge.members:
            raise UsageError(
                "a draft is chosen by its score, and no verifier was given: give one, or leave draft= out."
            )

    def needs(self, what: str) -> bool:
        """Whether the sampler says that it needs "schedule", "mix", ... (protocol/interfaces.py)."""
        return what in SamplerHooks.of(self.sampler).needs
