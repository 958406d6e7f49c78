"""Rows of queries for gradients that are evaluated together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.engine.search import Search
from genscale.engine.unrolled_calls import Unroll
from genscale.numerics.transfers import to_device
from genscale.protocol.particles import Candidate, Memory, Particles
from genscale.protocol.queries import Gradient


@dataclass(frozen=True)
class QueryRows:
    """Rows of one search's Gradient."""

    search: Search
    rows: tuple[int, ...]

    @property
    def query(self) -> Gradient:
        return gradient_query(self.search)


class Group:
    """Rows of queries of one kind, between their first model call and the end of their backward pass."""

    def __init__(self, parts: list[QueryRows]) -> None:
        self.parts = parts
        self.jobs = [(p.search, row) for p in parts for row in p.rows]
        self.prompts = tuple(s.index for s, _ in self.jobs)
        queries, process = [p.query for p in parts], parts[0].search.process
        self.query = queries[0]
        x = torch.cat([q.particles.x[list(p.rows)] for q, p in zip(queries, parts, strict=True)])
        self.pull = None if self.query.pull is None else _rows([q.pull for q in queries], parts, 0)
        noises = None if self.query.noises is None else _rows([q.noises for q in queries], parts, 1)
        memory = Memory.cat([_memory(p) for p in parts])
        candidates = tuple(self.candidate(i) for i in range(len(x)))
        particles = Particles(x, self.query.particles.step, candidates, memory)
        self.unroll = Unroll(process, self.query, process.holding.beside_model(particles), noises)

    def __len__(self) -> int:
        return len(self.jobs)

    def candidate(self, i: int) -> Candidate:
        search, row = self.jobs[i]
        return search.particles.candidates[row]

    def label(self, i: int) -> str:
        search, row = self.jobs[i]
        return search.label(row)


def gradient_query(search: Search) -> Gradient:
    assert isinstance(search.query, Gradient)
    return search.query


def _memory(part: QueryRows) -> Memory | None:
    memory = part.query.particles.memory
    return None if memory is None else memory.take(part.rows)


def _rows(tensors: Sequence[Tensor | None], parts: Sequence[QueryRows], dim: int) -> Tensor:
    """The parts' rows of a tensor of each query, joined along `dim`."""
    picked = []
    for tensor, part in zip(tensors, parts, strict=True):
        assert tensor is not None
        rows = to_device(torch.tensor(part.rows), tensor.device)
        picked.append(tensor.index_select(dim, rows))
    return parts[0].search.process.holding.beside_model(torch.cat(picked, dim))
