"""Best of N with the noise in pairs, z and -z.

Antithetic variates are Hammersley & Morton 1956. That a diffusion model takes negated noise to strongly negatively
correlated images is Jia et al. 2025, "Antithetic Noise in Diffusion Models" (arXiv 2506.06185), who estimate means
with it; here it is used to search.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from genscale import Candidate, Key, Particles, Process, Query, Score, Solve, UsageError, draw

UNLIMITED = 16  # candidates when neither the user nor a budget says how many


@dataclass(frozen=True)
class Antithetic:
    """Draw noises in pairs z, -z, finish all, keep the best.

    If the score is linear in the noise, the best of N is the largest of N / 2 draws of |z|: 0.80 standard deviations
    above the mean for N = 2 (best_of_n: 0.56), 1.13 for 4 (1.03), 1.78 for 16 (1.77). If the score is the same for z
    and -z, half the candidates are wasted, and it is best_of_n with N / 2.

    candidates: N; None means as many as the budget allows (16 without one). pairs: pairs that are drawn at a time;
    it changes when scores are seen, never what they are.

    Cost in NFE: N f, f being the evaluations of one candidate. A budget that pays for fewer makes N smaller, and the
    last pair may lack its second half.
    """

    candidates: int | None = None
    pairs: int = 8

    # What the pipeline must provide, of "noise", "schedule", "mix", "branches", "gradient".
    needs: ClassVar[frozenset[str]] = frozenset({"noise"})
    bibtex: ClassVar[str] = """@article{jia2025antithetic,
  title = {Antithetic Noise in Diffusion Models},
  author = {Jia and others},
  year = {2025},
  journal = {arXiv preprint arXiv:2506.06185},
  eprint = {2506.06185}
}"""

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < 1:
            raise UsageError(f"antithetic needs at least 1 candidate, not {self.candidates}.")
        if self.pairs < 1:
            raise UsageError(f"pairs={self.pairs} must be at least 1.")

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        """When the budget is spent, the engine ends the search at a yield."""
        total, done = self._total(process), 0
        while total is None or done < total:
            n = 2 * self.pairs if total is None else min(2 * self.pairs, total - done)
            candidates = [self._candidate(key, done + i) for i in range(n)]
            drawn = {c.id: process.noise(c) for c in candidates if c.id % 2 == 0}
            noise = [drawn[c.id] if c.id in drawn else -drawn[c.id - 1] for c in candidates]
            start = process.start(candidates, torch.stack(noise))
            if done == 0:  # candidate 0 keeps the pipeline's own latents, bit for bit
                start = Particles.cat([process.start(candidates[:1]), start[1:]])
            finished = yield Solve(start)
            yield Score(finished)
            done += n

    def _candidate(self, key: Key, i: int) -> Candidate:
        """Even candidates start from noise that is drawn, odd ones from its negative: noise made by hand."""
        if i % 2 == 0:
            return draw(key, i)
        return Candidate(
            i, "neighbour", key.fold("candidate", i).path, parent=i - 1, details={"cosine": -1.0}
        )

    def _total(self, process: Process) -> int | None:
        if self.candidates is None and not process.open_ended:
            return UNLIMITED
        return self.candidates

    def cost(self, process: Process) -> int | None:
        """NFE when no budget stops it; None where it runs until the budget ends."""
        total = self._total(process)
        return None if total is None else total * process.nfe()
