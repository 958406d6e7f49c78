"""Which noise a candidate's run began with, also where it branched off another candidate later.

Some pipelines use the noise of their initial latents again at every step (inpainting blends the image in with it), or
draw more inside their loop. What such a loop does with a candidate is decided where its line of ancestors began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from genscale.protocol.particles import OWN, Candidate, Particles


@dataclass(frozen=True)
class Origin:
    """Where a line of candidates began.

    candidate: the one that began it; its key is that of all further draws of the line. noise: [*latent], what its
    initial latents were made of; None: what its key gives, or the pipeline's own for candidate 0.
    """

    candidate: Candidate
    noise: Tensor | None = None

    @property
    def own(self) -> bool:
        """Whether all draws are the pipeline's own."""
        return self.candidate.id == OWN


class Origins:
    """The origins of one prompt's candidates. Filled while the search goes on, the same way in a resumed one.

    from_the_start: the pipeline's loop keeps more than latents, so no state of an earlier run can be continued.
    """

    def __init__(self, from_the_start: bool = False) -> None:
        self.from_the_start = from_the_start
        self._begun: dict[int, Tensor | None] = {}  # id: its noise
        self._met: dict[int, Candidate] = {}
        self._scored: dict[bytes, Candidate] = {}

    def begin(self, candidates: Sequence[Candidate], noise: Tensor | None) -> None:
        """Candidates start at step 0. noise: [n, *latent]; None: the pipeline's own, or drawn from their keys."""
        for i, candidate in enumerate(candidates):
            self._begun[candidate.id] = None if noise is None else noise[i]

    def meet(self, particles: Particles, scored: bool) -> None:
        """Learn the candidates of a query. scored: they are decoded next, so remember them by their latents, too."""
        for row, candidate in enumerate(particles.candidates):
            self._met[candidate.id] = candidate
            if scored:
                self._scored[_digest(particles.x[row])] = candidate
                if particles.x0 is not None:
                    self._scored[_digest(particles.x0[row].to(particles.x.dtype))] = candidate

    def line(self, candidate: Candidate) -> list[Candidate]:
        """The candidate, its parent, and so on, up to the one whose run began at step 0."""
        line = [candidate]
        while line[-1].id != OWN and line[-1].id not in self._begun:
            parent = None if line[-1].parent is None else self._met.get(line[-1].parent)
            if parent is None or parent in line:
                break
            line.append(parent)
        return line

    def of(self, candidate: Candidate) -> Origin:
        first = self.line(candidate)[-1]
        return Origin(first, None if first.id == OWN else self._begun.get(first.id))

    def decoded(self, x: Tensor) -> Candidate | None:
        """The candidate that was last scored with these latents [*latent]; None where they are not known."""
        return self._scored.get(_digest(x))


def _digest(x: Tensor) -> bytes:
    raw = x.detach().float().cpu().contiguous().numpy().tobytes()
    return hashlib.blake2b(raw, digest_size=16).digest()
