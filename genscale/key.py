"""Counter-based random numbers: a path of integers names each draw, so that it can be repeated.

A path says *what* is drawn (prompt, candidate, step), never *where* (row of a batch, device), so that results depend
neither on the batch size nor on the device nor on the order of evaluation. Bits come from Philox
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import operator
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_WORD = 1 << 32  # SeedSequence reads each spawn key as 32-bit words: (2**32,) would equal (0, 1)


@dataclass(frozen=True)
class Key:
    """An immutable path of integers in [0, 2**32). The same path gives the same numbers on every machine.

    The path is the `spawn_key` of a NumPy SeedSequence, not its entropy: that is padded with zeros, so that (3,) and
    (3, 0) would give the same stream.
    """

    path: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", tuple(map(_word, self.path)))

    @staticmethod
    def from_seed(seed: int) -> Key:
        """The root key of an integer seed in [0, 2**64) (all 64 bits count)."""
        if not 0 <= seed < _WORD**2:
            raise ValueError(f"a seed must be in [0, 2**64), not {seed}")
        return Key((seed % _WORD, seed // _WORD))

    def fold(self, *ids: int | str) -> Key:
        """This key with more elements on its path: numbers in [0, 2**32), or words, which are hashed (CRC-32)."""
        return Key(self.path + tuple(map(_word, ids)))

    def _generator(self) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(0, spawn_key=self.path)))

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float32, on the CPU."""
        return torch.from_numpy(self._generator().standard_normal(shape, dtype=np.float32))

    def normal_into(self, out: Tensor) -> None:
        """Write `normal(out.shape)` into a contiguous float32 tensor on the CPU."""
        self._generator().standard_normal(out=out.numpy(), dtype=np.float32)

    def uniform(self, n: int) -> Tensor:
        """`n` numbers in [0, 1), float64, on the CPU."""
        return torch.from_numpy(self._generator().random(n))


def _word(value: int | str) -> int:
    if isinstance(value, str):
        return zlib.crc32(value.encode())
    number = operator.index(value)  # 0.5 is refused, not rounded
    if not 0 <= number < _WORD:
        raise ValueError(f"a key is folded with integers in [0, 2**32), not {value}")
    return number
