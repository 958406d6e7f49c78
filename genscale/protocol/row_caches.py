"""What the caches of a model hold for one row (first block cache, TaylorSeer, ...; `genscale.pipelines.model_caches`).

A cache reuses parts of earlier outputs, so what a model computes for a row depends on the calls that this row had
before. Particles therefore carry this state, as they carry the memory of a solver: rows that branch take it along, and
rows that begin anew begin without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class RowCache:
    """State of one row; None: nothing was kept, so the next model call computes everything.

    before: as the next model call finds it. after: as the model call at the present step left it. It becomes `before`
    of the row that is stepped on, by whatever solver or kernel. The states themselves are never changed.
    """

    before: Any = None
    after: Any = None

    def copy(self) -> RowCache:
        return RowCache(self.before, self.after)

    def stepped(self) -> RowCache:
        """That of the row at the next step."""
        return RowCache(self.after)
