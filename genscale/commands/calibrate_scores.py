"""`genscale calibrate`: the scale, the noise and the agreement of verifiers on the user's own prompts.

The candidates are those of best_of_n. Each is scored as it is and under changes that do not matter, as soon as it is
made, so that no image has to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from genscale.commands.calibrate_verifier import members_of
from genscale.engine.archive import Entry
from genscale.engine.events import Event, Scored
from genscale.engine.ledger import Ledger
from genscale.engine.tensor_files import save_tensors
from genscale.engine.verifier_roles import VerifierSet, verifier_set
from genscale.errors import UsageError
from genscale.media import Media, cat_media
from genscale.media_items import IMAGE, VIDEO, plural
from genscale.results.result import SearchResult
from genscale.results.run_files import versions
from genscale.results.score_calibration import FILE, IMAGES, ScoreCalibration, measured
from genscale.results.verifier_calibration import Member, Reference
from genscale.runs import verifier_specs
from genscale.runs.complete_request import NONE
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder
from genscale.verifiers.harmless_changes import CHANGES, changed, harmless
from genscale.verifiers.reference_images import eight_bit, with_references

BATCH = 16  # images that are changed and scored together
REFERENCES = 2


@dataclass
class ChangedScores:
    """Scores of changed candidates, as they are finished.

    found: {(prompt, candidate id): {change: scores [K]}}. waiting: candidates whose changes are not scored yet.
    """

    judges: VerifierSet
    prompts: Sequence[str]
    found: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    waiting: list[tuple[Entry, Media]] = field(default_factory=list)

    def add(self, entry: Entry, media: Media) -> None:
        if media.kind not in (IMAGE, VIDEO):
            raise UsageError(
                f"{plural(media.kind)} cannot be cropped and mirrored: calibrate verifiers of images or videos."
            )
        self.waiting.append((entry, media.copied()))
        if len(self.waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Score what waits."""
        for change in CHANGES:
            some = [(e, m) for e, m in self.waiting if harmless(change, self.prompts[e.prompt])]
            if not some:
                continue
            media = cat_media([m for _, m in some])
            media = media.with_data(changed(change, media.pixels))
            texts = [self.prompts[e.prompt] for e, _ in some]
            labels = [f"candidate {e.candidate.id} of '{text}', changed by {change}" for (e, _), text in
                      zip(some, texts, strict=True)]  # fmt: skip
            rows = self.judges.score(media, texts, labels, Ledger()).numpy()
            for (entry, _), row in zip(some, rows, strict=True):
                self.found.setdefault((entry.prompt, entry.candidate.id), {})[change] = row
        self.waiting.clear()


def calibrate_scores(
    request: Request, candidates: int, out: Path | None, display: Display
) -> tuple[Path, ScoreCalibration]:
    """Measure the request's verifiers on `candidates` of each of its prompts, and write calibration.json and the
    reference images into a folder (a fresh one by default)."""
    if candidates < 2:
        raise UsageError(
            f"--candidates {candidates} is too few: the noise is held against the spread of 2 candidates or more."
        )
    fields = {"candidates": candidates}
    request = replace(request, sampler="best_of_n", sampler_fields=fields, select=(), held_out=NONE)
    run = PreparedRun.of(request.seeded())
    specs = run.request.verifiers
    members, names = members_of(specs), [verifier_specs.scored_as(spec) for spec in specs]
    with RunFolder.for_calibration(out, FILE) as folder:
        judges, frames = _judges(run, display)
        scored = ChangedScores(judges, run.request.prompts)
        result = _searched(run, scored, display)
        found = _measured(folder, result, scored, members, names, frames)
        found = replace(found, about=_about(run.request, candidates, result))
        folder.write(FILE, lambda path: _write(path, found.text()))
    return folder.path, found


def _judges(run: PreparedRun, display: Display) -> tuple[VerifierSet, int | None]:
    """The verifiers of the search once more, the same objects; and the frames that those of images get of a video."""
    from genscale.pipelines.loading import makes_videos

    with display.busy(f"loading {run.request.model}"):
        videos = makes_videos(run.pipe)
    members = verifier_specs.on_frames(run.verifiers, run.request.per_frame) if videos else run.verifiers
    return verifier_set(members, "weighted"), run.request.per_frame if videos else None


def _searched(run: PreparedRun, scored: ChangedScores, display: Display) -> SearchResult:
    def on_event(event: Event) -> None:
        if isinstance(event, Scored) and event.entry.final and event.media is not None:
            scored.add(event.entry, event.media)
        display(event)

    display.start(run.plan())
    try:
        result: SearchResult = run.scaled(on_event=on_event)(**run.seeded_call()).search
        scored.flush()
    finally:
        display.stop()
    if result.stopped is not None:
        raise KeyboardInterrupt  # what was measured of some prompts is no calibration of all
    return result


def _measured(
    folder: RunFolder,
    result: SearchResult,
    scored: ChangedScores,
    members: Sequence[Member],
    names: Sequence[str],
    frames: int | None,
) -> ScoreCalibration:
    """With the reference images written into the folder."""
    finals = [entry for search in result.searches for entry in search.finals]
    scores = np.array([[entry.scores[name] for name in names] for entry in finals], dtype=np.float64)
    missing = np.full(len(names), np.nan)
    again = {
        change: np.stack(
            [scored.found.get((e.prompt, e.candidate.id), {}).get(change, missing) for e in finals]
        )
        for change in CHANGES
    }
    prompts = np.array([entry.prompt for entry in finals], dtype=np.int64)
    kept = [result.ranking(i)[0] for i in range(len(result.prompts)) if result.ranking(i)][:REFERENCES]
    texts = tuple(result.prompts[entry.prompt] for entry in kept)
    pixels, media = eight_bit(cat_media([result.media([entry]) for entry in kept]))
    saved: dict[str, str] = {}
    folder.write(IMAGES, lambda path: saved.update(digest=save_tensors(path, {"pixels": pixels})))
    members = with_references(members, scored.judges, media, texts, scores)
    found, agreed = measured(names, members, scores, again, prompts)
    return ScoreCalibration(found, agreed, result.prompts, Reference(saved["digest"], texts), frames)


def _about(request: Request, candidates: int, result: SearchResult) -> dict[str, Any]:
    return {
        "model": request.model,
        "candidates": candidates,
        "steps": request.steps,
        "seed": request.seed,
        "versions": versions(),
        "ledger": result.ledger.as_dict(),
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
