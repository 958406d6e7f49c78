"""Candidate 0 is the pipeline's own result, bit for bit: what leaves its path gets another id here.

The path begins at the pipeline's own initial latents and continues by its own scheduler. `PromptProcess` asks for a new
id where one of its methods moves candidate 0 otherwise, and `Search` before a Solve with a kernel. Latents that a
sampler changed by itself are recognised by their bytes: the path is known at every step where a sampler has seen it.
So a result with id 0 is always the pipeline's own, whatever a sampler does or forgets.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genscale.numerics.transfers import HostCopy
from genscale.protocol.particles import OWN, Candidate, Particles, off_own_path


class OwnPath:
    """The states of candidate 0 in one search, and the ids of what has left its path.

    New ids are -1, -2, ... in the order in which the sampler makes these candidates, so they depend neither on the
    batch size nor on whether a run was resumed. No sampler can draw them: a key is folded with numbers from 0 on. The
    same departure, asked for again, gives the same candidate.
    """

    def __init__(self) -> None:
        self._states: dict[int, _State] = {}  # by step
        self._changed: dict[
            tuple[int, bytes], str
        ] = {}  # (step, digest of other latents): what they are called
        self._left: dict[tuple[int, str, tuple[int, ...]], Candidate] = {}

    def record(self, particles: Particles) -> Particles:
        """Remember the latents of candidate 0 as the pipeline's own at this step."""
        for row, candidate in enumerate(particles.candidates):
            if candidate.id == OWN:
                self._states[particles.step] = _State(particles.x, row)
        return particles

    def leave(
        self, candidates: Sequence[Candidate], step: int, how: str, origin: str = "branch"
    ) -> tuple[Candidate, ...]:
        """The candidates, candidate 0 with a new id; how: what moves it off its path at this step."""
        return tuple(self._other(c, step, how, origin) if c.id == OWN else c for c in candidates)

    def checked(self, particles: Particles) -> Particles:
        """The particles; rows with id 0 whose latents are not the pipeline's own get a new id."""
        if all(c.id != OWN for c in particles.candidates):
            return particles
        candidates = list(particles.candidates)
        for i, candidate in enumerate(candidates):
            if candidate.id != OWN:
                continue
            own = self._states.get(particles.step)
            if own is not None and own.is_row(particles.x, i):
                continue
            digest = _digest(particles.x[i].cpu())
            if own is not None and digest == own.digest:
                continue
            how = self._changed.setdefault((particles.step, digest), f"change {len(self._changed)}")
            candidates[i] = self._other(candidate, particles.step, how, "branch")
        same = tuple(candidates) == particles.candidates
        return particles if same else replace(particles, candidates=tuple(candidates))

    def _other(self, candidate: Candidate, step: int, how: str, origin: str) -> Candidate:
        departure = (step, how, candidate.key)
        if departure not in self._left:
            self._left[departure] = off_own_path(candidate, -1 - len(self._left), step, how, origin)
        return self._left[departure]


class _State:
    """The latents of candidate 0 at a step, as bytes; nothing waits for the accelerator to know them.

    x: [n, *latent], which is not kept: of the row only a copy on the host, until its digest is asked for.
    """

    def __init__(self, x: Tensor, row: int) -> None:
        self._tensor, self._row = weakref.ref(x), row
        self._version = None if x.is_inference() else x._version
        self._copy: HostCopy | None = HostCopy(x[row])
        self._digest = b""
        if x.device.type == "cpu":  # the copy is the tensor itself, which may be written to
            self.digest  # noqa: B018

    @property
    def digest(self) -> bytes:
        if self._copy is not None:
            self._digest, self._copy = _digest(self._copy.get()), None
        return self._digest

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copies, which have no use for the tensor itself."""
        return {
            "_digest": self.digest,
            "_copy": None,
            "_tensor": _nothing,
            "_row": self._row,
            "_version": None,
        }

    def is_row(self, x: Tensor, row: int) -> bool:
        """Whether this is that row of the very tensor, and nothing was written to it since."""
        same = self._tensor() is x and self._row == row and self._version is not None
        return same and x._version == self._version


def _nothing() -> None:
    """Stands for the reference to a tensor that is gone."""


def _digest(x: Tensor) -> bytes:
    """Digest of the bytes of latents [*latent] on the CPU: equal only where they are the same bit for bit, NaN
    included."""
    raw = x.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(raw.tobytes(), digest_size=16).digest()
