"""One scored state of one candidate, as a search holds it and the archive stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from genscale.engine.embeddings import as_text, from_text, remember
from genscale.engine.recipes import candidate_of, recipe
from genscale.protocol.particles import Candidate

_STORED = ("prompt", "step", "final", "scores", "total", "select", "held_out", "nfe", "seconds")


@dataclass
class Entry:
    """One scored state of one candidate.

    prompt: its index. step: of the process. final: whether the latents were clean; a preview cannot win.
    scores: raw scores, by search verifier; select, held_out and guard: those of the other roles. total: the combined
    search score; None under a rank ensemble. nfe: spent by the prompt's search when it was scored. seconds: since the
    run began. x: clean latents [*latent], where they are kept; never of a preview. vectors: embeddings [d] by verifier,
    for which `scores` and `select` hold the numbers that stand for them (genscale.engine.embeddings).
    """

    prompt: int
    candidate: Candidate
    step: int
    final: bool
    scores: dict[str, float]
    total: float | None
    select: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)
    nfe: int = 0
    seconds: float = 0.0
    x: Tensor | None = None
    guard: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As the archive has it; empty fields of later versions are left out."""
        record = {k: v for k, v in vars(self).items() if k not in ("x", "candidate", "guard", "vectors")}
        if self.guard:
            record["guard"] = self.guard
        if self.vectors:
            record["vectors"] = as_text(self.vectors)
        return {"kind": "score", **record, **recipe(self.candidate)}

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> Entry:
        """From the archive, without latents. ValueError: an embedding is damaged."""
        entry = Entry(candidate=candidate_of(record), **{k: record[k] for k in _STORED})
        vectors = from_text(record.get("vectors", {}))
        return replace(entry, guard=record.get("guard", {}), vectors=vectors)

    def remember(self) -> None:
        """Make the numbers in its scores stand for its embeddings, as they do while the search runs."""
        for name, vector in self.vectors.items():
            for scores in (self.scores, self.select):
                if name in scores:
                    remember(scores[name], vector)
