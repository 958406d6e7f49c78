"""Those that do the work of an engine elsewhere, as the engine sees them."""

from __future__ import annotations

from typing import Any, Protocol


class Crew(Protocol):
    """Workers. count: how many work at the same time, each on several pieces of work one after the other."""

    count: int

    def submit(self, task: Any) -> int:
        """Have something done; the number to ask for the answer with."""

    def result(self, number: int) -> Any:
        """The answer; waits for it. Raises what the work raised."""

    def forget(self, number: int) -> None:
        """Its answer will not be asked for."""
