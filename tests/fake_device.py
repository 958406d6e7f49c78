"""A device that stands for an accelerator and counts what the host would wait for.

Its tensors say that they are on another device than the CPU and hold a CPU tensor, on which all operations run. So a
whole pipeline runs on it, with the numbers of the CPU, and all that crosses between host and device is seen.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from genscale.engine.events import Denoised, Event, Scored

DEVICE = torch.device("meta")
_ROOT = Path(__file__).resolve().parent.parent
_OURS = tuple(str(_ROOT / folder) + "/" for folder in ("genscale", "pipelines", "samplers", "verifiers"))
_THEIRS = ("/diffusers/", "/transformers/", "/accelerate/")

_ANSWERS = ("verifier_calls.py", "score_vectors.py")  # where a verifier's scores become numbers

# Operations whose result the host must have before it can go on.
READS = {
    "_local_scalar_dense",
    "item",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "allclose",
}
READ, COPY = "read", "blocking copy"

Wait = tuple[str, bool, str]
"""(READ or COPY, whether genscale's own code asked for it, file and line)."""


class OnDevice(torch.Tensor):
    """A tensor of the device; held: the CPU tensor with its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=0, dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the fake device, outside of it")

    def as_subclass(self, cls: Any) -> Any:
        """The same numbers; a plain tensor would have none."""
        if cls is Tensor:
            return self if type(self) is OnDevice else OnDevice(self.held)
        return _both(cls)(self.held)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"OnDevice({self.held})"


@cache
def _both(cls: Any) -> Any:
    return type(cls.__name__, (cls, OnDevice), {})


class FakeDevice(TorchDispatchMode):
    """While active, tensors can be on DEVICE.

    waits: how often the host would have waited for what.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[Wait] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        given = [t for t in flat if isinstance(t, OnDevice)]
        asked = kwargs.get("device")
        name = func.overloadpacket.__name__
        target = given if asked is None else torch.device(asked) == DEVICE
        if (kind := _wait(name, args, kwargs, bool(given), bool(target))) is not None:
            self.waits[(kind, *_asked_by())] += 1
        if asked is not None and torch.device(asked) == DEVICE:
            kwargs["device"] = torch.device("cpu")
        if given and name in ("_local_scalar_dense", "equal", "is_nonzero"):
            target = []
        kwargs.pop("pin_memory", None)
        held_args, held_kwargs = tree_map(_held, (args, kwargs))
        result = func(*held_args, **held_kwargs)
        if name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], Tensor):
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        return tree_map(lambda r: OnDevice(r) if isinstance(r, Tensor) else r, result) if target else result


class Waits:
    """Sorts what a search waits for by where it happens. To be given as `on_event`.

    steps: for each model call that another one follows with no scoring between, what was waited for from its step to
    that of the next. scorings: the same where candidates were scored between, without what verifiers read: their scores
    are answers. Both of genscale's own code only.
    """

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.steps: list[Counter[Wait]] = []
        self.scorings: list[Counter[Wait]] = []
        self._before: Counter[Wait] | None = None
        self._scored = False

    def __call__(self, event: Event) -> None:
        self._scored = self._scored or isinstance(event, Scored)
        if not isinstance(event, Denoised):
            return
        now = Counter(self.device.waits)
        if self._before is not None:
            new = now - self._before
            ours = Counter({w: n for w, n in new.items() if w[1] and not w[2].startswith(_ANSWERS)})
            (self.scorings if self._scored else self.steps).append(ours)
        self._before, self._scored = now, False


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) as a copy that is seen
    try:
        with FakeDevice() as mode:
            yield mode
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _wait(name: str, args: Any, kwargs: Any, given: bool, target: bool) -> str | None:
    """What the host would wait for in an operation: READ, COPY or None."""
    if name in READS and given:
        return READ
    blocking = not kwargs.get("non_blocking", False)
    if name == "_to_copy" and blocking:
        source = isinstance(args[0], OnDevice)
        return None if source == target else READ if source else COPY
    if name == "copy_" and blocking and not (len(args) > 2 and args[2]) and isinstance(args[1], Tensor):
        to, source = isinstance(args[0], OnDevice), isinstance(args[1], OnDevice)
        return None if to == source else READ if source else COPY
    if name in ("index", "index_put", "index_put_") and given:
        indices = [i for i in args[1] if isinstance(i, Tensor)]
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            return READ  # how many rows there are is known to the device only
        if isinstance(args[0], OnDevice) and any(not isinstance(i, OnDevice) for i in indices):
            return COPY
    return None


def _asked_by() -> tuple[bool, str]:
    """Whether genscale asked for an operation, or a library that it runs; the file and line."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        handed_on = frame.f_code.co_name in (
            "__torch_function__",
            "__torch_dispatch__",
        )  # somebody else's operation
        if file.startswith(_OURS) and not handed_on:
            return True, f"{Path(file).name}:{frame.f_lineno}"
        if any(part in file for part in _THEIRS):
            return False, f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return False, ""
