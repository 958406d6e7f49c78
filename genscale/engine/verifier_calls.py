"""One call of a verifier: what it is given, how long it may take, and whether it is tried again.

A verifier gets the images and prompts as its own: what it writes into them is seen by nobody else. It is called in the
thread of the search, without a limit of time. Two kinds are called in a thread of their own, which can be left:

- with a time limit (`timeout`, a number of seconds, of the verifier or of `genscale.scale(verifier_timeout=)`);
- a remote one (`remote = True`), such as a client of a server. It is tried again after an exception or a time-out,
  `retries` times (3 by default), after pauses of 0.5 s, 1 s, 2 s, ...; and if the budget's seconds end while it is
  waited for, the search ends with the best so far.

A thread that is left runs on until the verifier returns; its answer is ignored.
"""

from __future__ import annotations

import contextvars
import copy
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genscale.errors import BudgetExhausted, UsageError
from genscale.media import Data, Media

RETRIES = 3  # further calls of a remote verifier that fails
PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before the first of them; each pause is twice the one before

Left = Callable[[], float]
"""Seconds for which a verifier may still be waited for, by the budget."""


def unlimited() -> float:
    return math.inf


class VerifierTimeout(Exception):
    """A verifier did not answer within its time limit."""


class OwnMedia(Media):
    """The same media for one reader, who may write into `data`: it is copied when it is first asked for."""

    def __init__(self, media: Media) -> None:
        super().__init__(media.data, media.kind, media.sampling_rate)
        self._copied = False

    @property
    def data(self) -> Data:
        if not self._copied:
            own = self._data
            self._data = own.clone() if isinstance(own, Tensor) else copy.deepcopy(own)
            self._copied = True
        return self._data

    @data.setter
    def data(self, value: Data) -> None:
        self._data, self._copied = value, True


def call_verifier(
    score: Callable[..., Any],
    verifier: Any,
    images: Media | Tensor,
    prompts: Sequence[str],
    timeout: float | None = None,
    left: Left = unlimited,
) -> Any:
    """What `score` (the verifier, or a method of it) returns for images and prompts of its own.

    timeout: seconds, for a verifier that has no `timeout` itself. left: see Left.

    Raises what the verifier raises; VerifierTimeout; BudgetExhausted if a remote verifier has not answered when the
    time of the budget is over.
    """
    remote = bool(_option(verifier, "remote"))
    timeout = _number(verifier, "timeout", timeout)
    attempts = 1 + int(_number(verifier, "retries", RETRIES) or 0) if remote else 1

    def once() -> Any:
        given = images.clone() if isinstance(images, Tensor) else OwnMedia(images)
        return score(given, list(prompts))

    if not remote and timeout is None:
        return once()
    for attempt in range(attempts):
        allowed = left() if remote else math.inf
        try:
            return _in_time(once, math.inf if timeout is None else timeout, allowed)
        except (UsageError, BudgetExhausted, torch.cuda.OutOfMemoryError):
            raise
        except Exception:
            if attempt + 1 == attempts:
                raise
        _pause(min(PAUSE * 2**attempt, LONGEST_PAUSE), left)
    raise AssertionError("there is at least one attempt")


def _option(verifier: Any, name: str) -> Any:
    """An attribute of a verifier, or of the one that it wraps (its `verifier`); None if neither has it."""
    value = getattr(verifier, name, None)
    return getattr(getattr(verifier, "verifier", None), name, None) if value is None else value


def _number(verifier: Any, name: str, default: float | None) -> float | None:
    """An option of a verifier. UsageError: it is not a number of 0 or more."""
    value = _option(verifier, name)
    value = default if value is None else value
    if value is not None and (not isinstance(value, int | float) or not value >= 0):
        raise UsageError(f"{name}={value!r} of {type(verifier).__name__} must be a number of 0 or more.")
    return value


def _pause(seconds: float, left: Left) -> None:
    if left() <= seconds:
        raise BudgetExhausted
    time.sleep(seconds)


def _in_time(call: Callable[[], Any], timeout: float, left: float) -> Any:
    """The result of a call in another thread. VerifierTimeout or, if `left` is the shorter limit, BudgetExhausted."""
    done, found, graph = threading.Event(), list[Any](), torch.is_grad_enabled()
    raised = list[BaseException]()

    def run() -> None:
        try:
            with torch.set_grad_enabled(graph):  # the mode of autograd belongs to a thread
                found.append(call())
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    if left <= 0:
        raise BudgetExhausted
    # In the caller's context, so that a search which the verifier starts is known to be its own.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="genscale verifier", daemon=True).start()
    wait = min(timeout, left)
    if not done.wait(None if math.isinf(wait) else wait):
        if left < timeout:
            raise BudgetExhausted
        raise VerifierTimeout(f"no answer within {timeout:g} s")
    if raised:
        raise raised[0]
    return found[0]
