"""Verifiers that give an embedding of each candidate, and score it by those of the others.

A search holds one number for each candidate and verifier. The number of an embedding stands for it (a digest of its
bytes), and `similarity` makes scores of the numbers of a set of candidates. Embeddings live as long as the entries of
the search that hold them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import deque
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

_known: WeakValueDictionary[float, Any] = WeakValueDictionary()
_latest: deque[Tensor] = deque(maxlen=4096)
"""Keeps those that have no entry yet: far more than are scored at once."""


def numbers_of(vectors: Tensor) -> Tensor:
    """The numbers [n] float64 that stand for embeddings [n, d]; NaN for one that is not finite. They are remembered."""
    rows = [row.clone() for row in vectors.detach().cpu().float()]
    numbers = [_number(row) if row.isfinite().all() else float("nan") for row in rows]
    for number, row in zip(numbers, rows, strict=True):
        if number == number:
            remember(number, row)
    _latest.extend(rows)
    return torch.tensor(numbers, dtype=torch.float64)


def remember(number: float, vector: Tensor) -> None:
    """Make a number stand for an embedding for as long as somebody holds it."""
    if number not in _known:
        _known[number] = vector


def vector_of(number: float) -> Tensor:
    """The embedding [d] that a number stands for."""
    found: Tensor = _known[number]
    return found


def similarity(numbers: Tensor) -> Tensor:
    """The mean cosine similarity of each candidate to all others, [n] in [-1, 1]: float64; 0 of one alone.

    The largest is the medoid's under the distance 1 - cosine.
    """
    n = len(numbers)
    if n < 2:
        return torch.zeros(n, dtype=torch.float64)
    vectors = torch.stack([vector_of(number) for number in numbers.tolist()]).double()
    units = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-30)
    whole = units @ units.sum(0)
    found: Tensor = (whole - (units * units).sum(1)) / (n - 1)
    return found


def _number(vector: Tensor) -> float:
    digest = hashlib.blake2b(vector.numpy().tobytes(), digest_size=6).digest()
    return float(int.from_bytes(digest, "big"))  # below 2^53, so a float holds it exactly


def as_text(vectors: Mapping[str, Tensor]) -> dict[str, str]:
    """Embeddings by verifier, as JSON can hold them: base64 of little-endian float32."""
    return {k: base64.b64encode(v.numpy().astype("<f4").tobytes()).decode() for k, v in vectors.items()}


def from_text(texts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inverse. ValueError: it is none."""
    try:
        data = {k: base64.b64decode(v, validate=True) for k, v in texts.items()}
        found = {
            k: torch.from_numpy(np.frombuffer(v, dtype="<f4").astype(np.float32)) for k, v in data.items()
        }
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"an embedding cannot be read: {error}") from None
    if not all(len(v) and bool(v.isfinite().all()) for v in found.values()):
        raise ValueError("an embedding is empty or not finite")
    return found
