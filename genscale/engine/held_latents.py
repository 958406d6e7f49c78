"""How many latents a search of one prompt holds at its peak, by a formula."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.protocol.queries import Denoise, Gradient, Query

SOLVED, PREDICTED = 4, 6
"""Latents that a row of the population takes at most: solved without predictions, its state, the answer, and its parts
while they are joined; with predictions its state, the two estimates twice, as parts and joined or before and after they
are taken to the survivors, and the work space of the move."""

STATE = 3  # latents of a node: its state, and the clean and the noise estimate
PRIOR = 4  # latents of offset, scale and the own ones of the pipeline, and one that is being entered
ROW = 5  # latents of a row of the open batch: input, output, step, noise, estimate


@dataclass
class HeldLatents:
    """Counts of one prompt's search, in latents of float32; without the work space of the models.

    population: rows of the largest query. predicted: whether the sampler asks for predictions. nodes: states that it
    keeps to continue from. kept: finished candidates that keep their latents, the pipeline's own included. solver:
    what the pipeline's scheduler remembers of a row. batch: rows of a model call. size: bytes of one latent.
    keeps_states: of the sampler (SamplerHooks). Previews hold none.
    """

    size: int
    batch: int = 0
    solver: int = 0
    population: int = 0
    predicted: bool = False
    nodes: int = 0
    kept: int = 0
    keeps_states: bool = False

    def asked(self, query: Query, rows: int) -> None:
        """Count a query that is answered for so many rows."""
        self.population = max(self.population, rows)
        if isinstance(query, Denoise | Gradient):
            self.predicted = True
            self.nodes += rows if self.keeps_states else 0

    @property
    def latents(self) -> int:
        """At the peak."""
        each = (PREDICTED if self.predicted else SOLVED) + self.solver
        batch = min(self.batch, self.population) * (ROW + self.solver)
        return each * self.population + STATE * self.nodes + self.kept + PRIOR + batch

    @property
    def bytes(self) -> int:
        return self.latents * self.size
