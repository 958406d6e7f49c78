"""Particles (latents during a run) and candidates (where they come from, as the archive records it)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from genscale.key import Key
from genscale.numerics.transfers import take_rows
from genscale.protocol.row_caches import RowCache

OWN = 0  # id of the pipeline's own result: its initial latents, stepped by its scheduler


@dataclass(frozen=True)
class Candidate:
    """The recipe of a candidate: enough to make it again.

    id: unique within its prompt's search. Samplers count from 0, which is the pipeline's own, bit for bit. Ids below 0
        are given by the engine where candidate 0 leaves the pipeline's own path.
    origin: how it was made from its parent:
        "own": the pipeline's own. "prior": from fresh noise, without a parent.
        "neighbour": a move on the sphere of noise. "mutant": part of the noise exchanged. "ascent": a step up the
        gradient of the reward in noise space.
        "branch": continues from the parent's latents with noise of its own. "renoised": the parent's latents, taken
        back to a noisier level. "estimate": the parent's clean estimate, taken as the result. "lookahead": the parent's
        state, continued in a few steps only to be scored.
    key: path of the Key that its noise is drawn from, including the noise inside solver steps.
    parent: id of the candidate it was made from.
    step: the step of the process at which it starts.
    details: further numbers of the move (cosine of a neighbour, line of a branch, ...).
    measured: statistics of its noise. Not part of the recipe: candidates that differ only in these are equal.
    """

    id: int
    origin: str
    key: tuple[int, ...] = ()
    parent: int | None = None
    step: int = 0
    details: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict, compare=False)


def draw(key: Key, i: int) -> Candidate:
    """Candidate i of a search: 0 is the pipeline's own, the others start from fresh noise. key: of the search."""
    return Candidate(i, "own" if i == OWN else "prior", key.fold("candidate", i).path)


def branch(key: Key, i: int, parent: Candidate, step: int, origin: str = "branch") -> Candidate:
    """Candidate i of a search, which continues from its parent's latents at a step with noise of its own.

    Its details hold a digest of its ancestry: with another budget the same ids may stand for other states, and the
    archive must not confuse them.
    """
    line = repr((parent.id, parent.origin, parent.key, parent.step, sorted(parent.details.items()), step))
    digest = int.from_bytes(hashlib.blake2b(line.encode(), digest_size=6).digest(), "big")  # exact as a float
    return Candidate(i, origin, key.fold("candidate", i).path, parent.id, step, {"line": float(digest)})


ARM = "arm"  # in a candidate's details: which of the configurations of the call it was made with


def arm_of(candidate: Candidate) -> int:
    """The index of the configuration that a candidate is made with; 0 where there is one only."""
    return int(candidate.details.get(ARM, 0))


def off_own_path(parent: Candidate, i: int, step: int, how: str, origin: str = "branch") -> Candidate:
    """What candidate 0 becomes where it leaves the pipeline's own path at a step; how: what moves it there.

    The engine makes these (`genscale.engine.own_path`), with ids below 0. Its key names step and cause.
    """
    return Candidate(i, origin, Key(parent.key).fold("off own path", step, how).path, parent.id, step)


@dataclass(frozen=True)
class Memory:
    """State of a solver between steps (past outputs of a multistep method, step counters).

    rows: tensors whose first dimension is the particle. rest: everything else, equal for all rows.
    """

    rows: Mapping[str, Tensor]
    rest: Mapping[str, Any]

    def take(self, rows: slice | Sequence[int]) -> Memory:
        return Memory({k: take_rows(v, rows) for k, v in self.rows.items()}, self.rest)

    def to(self, device: torch.device) -> Memory:
        return Memory({k: v.to(device) for k, v in self.rows.items()}, self.rest)

    @staticmethod
    def alike(a: Memory | None, b: Memory | None) -> bool:
        """Whether two memories differ in their rows only."""
        return a is b or (
            a is not None and b is not None and a.rest == b.rest and a.rows.keys() == b.rows.keys()
        )

    @staticmethod
    def cat(parts: Sequence[Memory | None]) -> Memory | None:
        """The memory of the rows of all parts, which must be alike."""
        given = [memory for memory in parts if memory is not None]
        if len(given) <= 1:
            return given[0] if given else None
        return Memory({k: torch.cat([m.rows[k] for m in given]) for k in given[0].rows}, given[0].rest)


@dataclass(frozen=True)
class Particles:
    """Latents during a run, all of one prompt and at one step. Never changed in place.

    x: [n, *latent], what the next model call sees (before the scheduler's input scaling).
    step: index of the next model call; equal to `process.steps` when the latents are clean.
    candidates: the recipe of each row. memory: the solver's state of each row.
    x0: [n, *latent], the clean estimate of the last model call, which saw the state before the last step; None before
        the first call, and where it was not kept.
    inner: model calls made of a transition that takes several (GLASS); the memory then holds its inner latents.
    caches: what caches of the model hold for each row; each Particles has its own, and begins with none.
    """

    x: Tensor
    step: int
    candidates: tuple[Candidate, ...]
    memory: Memory | None = None
    x0: Tensor | None = None
    inner: int = 0
    caches: tuple[RowCache, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        given = len(self.caches) == len(self)
        own = (cache.copy() for cache in self.caches) if given else (RowCache() for _ in self.candidates)
        object.__setattr__(self, "caches", tuple(own))

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def stepped_caches(self) -> tuple[RowCache, ...]:
        """The caches of these rows after the step that follows their model call."""
        return tuple(cache.stepped() for cache in self.caches)

    def to(self, device: torch.device) -> Particles:
        memory = None if self.memory is None else self.memory.to(device)
        x0 = None if self.x0 is None else self.x0.to(device)
        return replace(self, x=self.x.to(device), memory=memory, x0=x0)

    def __getitem__(self, rows: slice | Sequence[int]) -> Particles:
        """A slice gives views, a list copies of the rows."""
        chosen = range(len(self))[rows] if isinstance(rows, slice) else list(rows)
        return replace(
            self,
            x=take_rows(self.x, rows if isinstance(rows, slice) else chosen),
            candidates=tuple(self.candidates[i] for i in chosen),
            memory=None if self.memory is None else self.memory.take(rows),
            x0=None if self.x0 is None else take_rows(self.x0, rows),
            caches=tuple(self.caches[i] for i in chosen),
        )

    @staticmethod
    def cat(parts: Sequence[Particles]) -> Particles:
        """Join particles of one step. ValueError: steps differ, or the solver memories do."""
        return cat(parts)


def cat(parts: Sequence[Particles]) -> Particles:
    """Join particles at one step. Clean estimates are kept if all parts have them.

    ValueError: their steps differ, or their solvers keep different kinds of state.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    names = [None if p.memory is None else set(p.memory.rows) for p in parts]
    if any((p.step, p.inner) != (first.step, first.inner) for p in parts) or any(
        n != names[0] for n in names
    ):
        raise ValueError("particles at different steps, or with different solver memories, cannot be joined")
    estimates = [p.x0 for p in parts if p.x0 is not None]
    return Particles(
        x=torch.cat([p.x for p in parts]),
        step=first.step,
        candidates=tuple(c for p in parts for c in p.candidates),
        memory=Memory.cat([p.memory for p in parts]),
        x0=torch.cat(estimates) if len(estimates) == len(parts) else None,
        inner=first.inner,
        caches=tuple(cache for p in parts for cache in p.caches),
    )
