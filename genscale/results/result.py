"""What a run gives beside its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genscale.results.save_run import save_run
from genscale.results.search_outcome import SearchOutcome


@dataclass(frozen=True, repr=False)
class SearchResult(SearchOutcome):
    """All that a search found, for every prompt: see SearchOutcome; and it can be saved."""

    def save(self, folder: str | Path) -> Path:
        """Write what the command line writes: images with metadata, contact sheet, run.json, request.json, archive.

        `genscale show`, `genscale rescore`, `genscale replay FILE` and `genscale.load_result` read the folder. The
        folder of `scale(out=)` can be given. What a request cannot hold (a verifier of your own, prompt embeddings,
        input images, ...) is listed under "missing" in run.json; commands that need it end with a UsageError. If saving
        fails, nothing is left behind.

        UsageError: the folder holds another run or cannot be written to.
        """
        return save_run(self, Path(folder))
