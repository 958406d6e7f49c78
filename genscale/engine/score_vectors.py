"""Scores in the forms that verifiers return them, as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_vector(raw: Any, n: int) -> Tensor | None:
    """The scores float64 [n] on the CPU; None if it is not one real number for each image."""
    try:
        if _is_complex(raw) or (isinstance(raw, Sequence) and any(_is_complex(r) for r in raw)):
            return None  # torch would take the real parts
        if not isinstance(raw, Tensor) and isinstance(raw, Sequence):
            each = [r.cpu() if isinstance(r, Tensor) else r for r in raw]  # not every device has float64
            raw = torch.stack([torch.as_tensor(r, dtype=torch.float64).reshape(()) for r in each])
        if isinstance(raw, np.ndarray):
            raw = raw.copy()  # torch refuses reversed views and warns of read-only ones
        vector = torch.as_tensor(raw).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    if vector.numel() == n and vector.ndim <= 2:
        return vector.reshape(n)
    return None


def _is_complex(raw: Any) -> bool:
    if isinstance(raw, Tensor):
        return raw.is_complex()
    return isinstance(raw, complex) or (isinstance(raw, np.ndarray | np.generic) and np.iscomplexobj(raw))


def shape_of(raw: Any) -> str:
    """What a verifier returned, in words."""
    if hasattr(raw, "shape") and _is_complex(raw):
        return f"complex numbers of shape {list(raw.shape)}"
    if hasattr(raw, "shape"):
        return f"an array of shape {list(raw.shape)}"
    return f"{len(raw)} values" if hasattr(raw, "__len__") else f"a {type(raw).__name__}"
