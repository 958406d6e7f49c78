"""One search at a time on a pipeline, and on every pipeline that shares models with it.

A search replaces the forward of the models while it runs, freezes weights for gradients, and fills the accelerator's
memory. So each search claims its pipeline and models. A second search on any of them waits for the first, in order of
arrival, or is refused.

While a search waits for a verifier it does nothing to its pipeline, and the pipeline is as before the search. Then
others may use it, and the search goes on when they have ended:

- a search that the verifier starts, in its own thread, or in another one to which it hands its context
  (asyncio.to_thread, contextvars.copy_context().run);
- any waiting search, once one verifier call has lasted PATIENCE seconds. A verifier that waits for a search in a
  thread pool therefore never waits for ever.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from genscale.errors import UsageError

WAIT, REFUSE = "wait", "refuse"
PATIENCE = 10.0  # seconds
_POLL = 0.2  # seconds between looks at the clock, while something waits

_changed = threading.Condition()
# In order of admission: a claim that overlaps an older one runs inside a verifier call of that.
_active: list[Claim] = []
_waiting: list[Claim] = []  # in order of arrival
_around: ContextVar[tuple[Claim, ...]] = ContextVar("genscale_claims", default=())


class Claim:
    """What one search needs for itself. objects: its pipeline and models; kept, so that their ids stay theirs."""

    def __init__(self, objects: Iterable[Any]) -> None:
        self.objects = tuple(objects)
        self.ids = frozenset(map(id, self.objects))
        self.thread, self.around = threading.get_ident(), _around.get()
        self.lending = False  # it waits for a verifier, or for those that used its pipeline meanwhile
        self.lent_at: float | None = None  # when the verifier call began; None once it has ended

    @contextmanager
    def lent(self) -> Iterator[None]:
        """While a verifier is called: others may use the pipeline. Returns when they have ended."""
        with _changed:
            self.lending, self.lent_at = True, time.monotonic()
        try:
            yield
        finally:
            self._take_back()

    def _take_back(self) -> None:
        """An interrupt is raised afterwards: a search in another thread cannot be left with half a pipeline."""
        interrupt: BaseException | None = None
        with _changed:
            self.lent_at = None
            while self._has_guests():
                try:
                    _changed.wait(_POLL)
                except KeyboardInterrupt as error:
                    interrupt = error
            self.lending = False
        if interrupt is not None:
            raise interrupt

    def _has_guests(self) -> bool:
        return any(c.ids & self.ids for c in _active[_active.index(self) + 1 :])

    def bars(self, other: Claim) -> bool:
        """Whether another claim must wait for this active one."""
        if not self.ids & other.ids:
            return False
        if self.thread == other.thread:  # a search inside this one
            return False
        if not self.lending:
            return True
        if self in other.around or self._has_guests():  # a guest bars others itself
            return False
        return self.lent_at is None or time.monotonic() - self.lent_at < PATIENCE

    def is_inside(self) -> bool:
        """Whether an active search that this overlaps has started it."""
        return any(c.ids & self.ids and (c.thread == self.thread or c in self.around) for c in _active)

    def must_wait(self) -> bool:
        if any(c.bars(self) for c in _active):
            return True
        earlier = _waiting[: _waiting.index(self)]
        return not self.is_inside() and any(c.ids & self.ids for c in earlier)


@contextmanager
def claimed(pipe: Any, others: Iterable[Any] = (), busy: str = WAIT) -> Iterator[Claim]:
    """Hold a pipeline, its models, and other pipelines or models, for one search; inside a search, what that holds.

    busy: "wait" for a search that holds one of them, or "refuse". UsageError: busy is "refuse", and one is held.
    """
    claim = Claim(o for given in (pipe, *others) for o in (given, *_models(given)))
    with _changed:
        own = next((c for c in reversed(_active) if c.thread == claim.thread and c.ids & claim.ids), None)
    if own is not None and claim.ids <= own.ids and not own.lending:
        yield own
        return
    token = _around.set((*claim.around, claim))
    try:
        with _changed:
            _admit(claim, type(pipe).__name__, busy)
        yield claim
    finally:
        _around.reset(token)
        with _changed:
            _active[:] = [c for c in _active if c is not claim]
            _changed.notify_all()


def _models(pipe: Any) -> list[nn.Module]:
    found = getattr(pipe, "components", None)
    return [m for m in found.values() if isinstance(m, nn.Module)] if isinstance(found, dict) else []


def _admit(claim: Claim, name: str, busy: str) -> None:
    """Wait until nobody bars the claim; the caller holds `_changed`."""
    _waiting.append(claim)
    try:
        while claim.must_wait():
            if busy == REFUSE:
                raise UsageError(
                    f"{name} is busy: another search runs on it or on its models; call again when that has ended, or "
                    "give scale() busy='wait'."
                )
            _changed.wait(_POLL)
        _active.append(claim)
    finally:
        _waiting.remove(claim)
        _changed.notify_all()


def _forget_other_threads() -> None:
    """In a forked process only the thread that forked goes on."""
    global _changed
    _changed = threading.Condition()
    _active[:] = [c for c in _active if c.thread == threading.get_ident()]
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
