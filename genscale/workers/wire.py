"""Messages between processes as bytes. Tensors go by their memory, many times faster than by torch's own pickling.

Only for processes that a search has started itself: a pickle may run code when it is read.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

CAPTURES, MARK = "transformers.utils.output_capturing", "_output_capturing_hooks_installed"
"""At the first call of a model transformers puts hooks of its own on the layers, which cannot be pickled, and a mark on
the model; without the mark they are made anew. Which outputs they capture is noted when a model is constructed, which
one that was sent never is. (transformers 5; version 4 has neither.)"""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it takes functions that are defined in others, too
    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is Tensor and thing.layout is torch.strided and not thing.is_quantized:
            flat = thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            return _tensor, (flat, str(thing.dtype).removeprefix("torch."), tuple(thing.shape))
        if isinstance(thing, nn.Module):
            made: Any = thing.__reduce_ex__(5)
            if (
                isinstance(made, tuple) and isinstance(made[2], dict) and not any(made[3:])
            ):  # as nn.Module has it
                return made[0], made[1], _without_captures(made[2]), None, None, _set_module
        return super().reducer_override(thing)


def _without_captures(state: dict[str, Any]) -> dict[str, Any]:
    hooks = state["_forward_hooks"]
    kept = {key: hook for key, hook in hooks.items() if getattr(hook, "__module__", "") != CAPTURES}
    state = {key: value for key, value in state.items() if key != MARK}
    return state if len(kept) == len(hooks) else state | {"_forward_hooks": type(hooks)(kept)}


def _set_module(module: nn.Module, state: dict[str, Any]) -> None:
    module.__setstate__(state)  # type: ignore[no-untyped-call]
    noted = getattr(sys.modules.get(CAPTURES), "_CAN_RECORD_REGISTRY", None)
    if noted is not None and hasattr(module, "_can_record_outputs"):
        noted[module] = module._can_record_outputs


def _tensor(flat: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(flat).view(getattr(torch, dtype)).reshape(shape)


def dumps(message: Any) -> bytes:
    """The message as bytes; its tensors arrive on the CPU, without their graph."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(message)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """What `dumps` was given."""
    return pickle.loads(data)
