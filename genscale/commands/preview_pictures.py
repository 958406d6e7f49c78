"""The previews that a run folder has kept: the clean estimates of its candidates, to be decoded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from genscale.commands.labelled_runs import ScoredRun, read_scored
from genscale.engine.archive import read_archive
from genscale.engine.recipes import candidate_of
from genscale.engine.tensor_files import load_tensors
from genscale.errors import UsageError
from genscale.runs.saved_run import Final


@dataclass(frozen=True)
class Preview(Final):
    """A finished candidate, shown as the clean estimate that an earlier model call made of it."""

    def latents(self) -> Tensor:
        """The clean estimate [*latent]. UsageError: the file was damaged."""
        assert self.file is not None
        return load_tensors(self.file, self.digest, ("x0",))["x0"][0]


@dataclass(frozen=True)
class PreviewRun:
    """A run whose previews were kept. steps: of the previews, increasing.

    rows: for each finished candidate (the candidate, its preview at each of the steps).
    """

    scored: ScoredRun
    steps: tuple[int, ...]
    rows: tuple[tuple[Final, Mapping[int, Preview]], ...]


def read_previews(folder: Path) -> PreviewRun:
    """The candidates of a run of best_of_n with --previews. UsageError: it is none, or keeps no clean estimates."""
    scored = read_scored(folder, ())
    kept = {
        (r["prompt"], r["candidate"], r["step"]): r
        for r in read_archive(scored.run.folder)[1:]
        if r["kind"] == "solve"
    }
    rows = []
    for final in scored.finals:
        if final.file is None:
            continue
        where = (final.prompt, final.candidate.id)
        found = {}
        for step in scored.previews[where]:
            record = kept.get((*where, step))
            file = None if record is None else scored.run.folder / record["file"]
            if (
                record is not None
                and file is not None
                and file.is_file()
                and candidate_of(record) == final.candidate
            ):
                found[step] = Preview(**vars(final) | {"file": file, "digest": record.get("digest")})
        rows.append((final, found))
    steps = sorted(set.intersection(*(set(found) for _, found in rows))) if rows else []
    if not steps:
        raise UsageError(
            f"the run in '{folder}' keeps no previews to learn from: make one with genscale generate --sampler "
            "best_of_n --previews 0,0.25,0.5."
        )
    return PreviewRun(scored, tuple(steps), tuple(rows))


def same_steps(runs: Sequence[PreviewRun]) -> tuple[int, ...]:
    """The steps at which all runs have previews. UsageError: none, or the runs have other numbers of calls."""
    totals = sorted({r.scored.steps for r in runs})
    if len(totals) > 1:
        raise UsageError(
            f"the runs have {' and '.join(map(str, totals))} steps: learn those of each number of steps by itself."
        )
    shared = set.intersection(*(set(r.steps) for r in runs))
    if not shared:
        raise UsageError("the runs have no preview at the same step: make them with the same --previews.")
    return tuple(sorted(shared))
