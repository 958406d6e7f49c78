"""`genscale calibrate-verifier`: from labelled candidates to verifiers that answer probabilities.

Candidates made for it are an ordinary run in the folder `candidates`: of best_of_n, with previews, searched with the
verifiers, the judge picking the winner. So a killed one goes on where it was when the command is given again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genscale.commands.labelled_runs import ScoredRun, Where, judged, labelled, read_labels, read_scored
from genscale.engine.tensor_files import save_tensors
from genscale.errors import UsageError
from genscale.media import Media
from genscale.media_items import IMAGE, VIDEO, plural
from genscale.results import reliability_plot
from genscale.results.run_files import versions
from genscale.results.verifier_calibration import (
    FEWEST_PROMPTS,
    Labelled,
    Member,
    Reference,
    VerifierCalibration,
)
from genscale.results.verifier_calibration_file import FILE, IMAGES
from genscale.runs import generate, verifier_specs
from genscale.runs.complete_request import NONE, completed
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.read_request import load_folder
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder
from genscale.runs.saved_run import Decode, SavedRun, decoder_of
from genscale.verifiers.reference_images import eight_bit, panel, with_references

PLOT, CANDIDATES = "reliability.png", "candidates"


@dataclass(frozen=True)
class Labelling:
    """Where labels come from. judge: a verifier that was not calibrated, as on the command line; its score is right
    from `right_at` on. file: a CSV file in place of it. pipe: what decodes candidates; None loads the model of each
    run. trust: run code that the run folders ask for."""

    judge: str | None = None
    right_at: float | None = None
    file: Path | None = None
    trust: bool = False
    pipe: Any = None

    def check(self, makes: bool) -> None:
        """UsageError. makes: whether candidates are to be made."""
        if (self.judge is None) == (self.file is None):
            raise UsageError(
                "labels come from a judge or from a file: give one of the two (--judge, --labels)."
            )
        if self.file is not None and makes:
            raise UsageError(
                "candidates that are not made yet have no labels: make them with `genscale generate`, label them, and "
                "give their folder with --runs."
            )
        if self.file is not None and self.right_at is not None:
            raise UsageError("--right-at is for the scores of a judge: leave it out with --labels.")
        if self.right_at is not None and not math.isfinite(self.right_at):
            raise UsageError(f"--right-at {self.right_at} is no score: give a finite number.")

    def check_judge(self, verifiers: Sequence[str]) -> None:
        """UsageError: the judge is unknown, or one of these."""
        if self.judge is not None:
            name = verifier_specs.unweighted(self.judge)
            verifier_specs.weighted_verifiers([self.judge])
            if name in verifiers:
                raise UsageError(f"'{name}' cannot judge itself: give a --judge that is not calibrated.")

    def of(self, runs: Sequence[ScoredRun], display: Display) -> dict[Where, float]:
        if self.file is not None:
            return read_labels(self.file, runs)
        assert self.judge is not None
        name = verifier_specs.unweighted(self.judge)
        return judged(runs, self.judge, name, self.right_at, display, self.decoder)

    def decoder(self, run: SavedRun) -> Decode:
        return decoder_of(run, self.pipe, self.trust)


def calibrate_verifier(
    request: Request,
    runs: Sequence[Path],
    labelling: Labelling,
    candidates: int,
    previews: tuple[float, ...],
    out: Path | None,
    display: Display,
) -> tuple[Path, VerifierCalibration]:
    """Calibrate the request's verifiers, and write calibration.json, reliability.png and the reference images.

    runs: folders of candidates; none: they are made of the request's prompts, `candidates` a prompt, with previews at
    these fractions of the run. RunInterrupted: by Ctrl-C, while they are made.
    """
    if runs and request.prompts:
        raise UsageError("the prompts are those of the runs: give prompts or --runs, not both.")
    labelling.check(makes=not runs)
    request = replace(request, verifiers=_verifiers(request, runs))
    members = members_of(request.verifiers)
    names = [verifier_specs.scored_as(spec) for spec in request.verifiers]
    labelling.check_judge(names)
    if not runs and len(set(request.prompts)) < FEWEST_PROMPTS:
        raise UsageError(
            f"a calibration needs at least {FEWEST_PROMPTS} prompts, some to be held out, not "
            f"{len(set(request.prompts))}: 30 or more are better."
        )
    prepared = None if runs else _prepared(request, labelling, candidates, previews)
    scored = [read_scored(folder, names) for folder in runs]
    with RunFolder.for_calibration(out, FILE) as folder:
        if prepared is not None:
            scored = [_made(prepared, folder.path / CANDIDATES, names, display)]
        labels = labelling.of(scored, display)
        given = labelled(scored, labels, names)
        given.check()
        found = _calibrated(folder, scored, labels, given, members, labelling)
        folder.write(PLOT, lambda path: reliability_plot.plot(found, path))
        folder.write(FILE, lambda path: _write(path, found.text()))
    return folder.path, found


def _verifiers(request: Request, runs: Sequence[Path]) -> tuple[str, ...]:
    """Those asked for, else those of the runs or of the model."""
    if request.verifiers or not runs:
        return request.verifiers or completed(request).verifiers
    return completed(load_folder(runs[0].expanduser())).verifiers


def members_of(specs: Sequence[str]) -> list[Member]:
    found = []
    for spec in specs:
        name, options = verifier_specs.plugin_of(verifier_specs.anchored(spec))
        if name == verifier_specs.CALIBRATED:
            raise UsageError(f"'{spec}' is calibrated already: name its verifiers.")
        if specs.count(spec) > 1:
            raise UsageError(f"verifier '{spec}' is named twice: name it once.")
        [(verifier, _)] = verifier_specs.weighted_verifiers([spec])
        options |= getattr(verifier, "pinned", {})
        found.append(Member.unscored(name, options))
    return found


def _prepared(
    request: Request, labelling: Labelling, candidates: int, previews: tuple[float, ...]
) -> PreparedRun:
    """The run that makes the candidates."""
    judge = () if labelling.judge is None else (labelling.judge,)
    return PreparedRun.of(
        replace(
            request,
            sampler="best_of_n",
            sampler_fields={"candidates": candidates, "previews": previews},
            select=judge,
            held_out=NONE,
        )
    )


def _made(run: PreparedRun, folder: Path, names: Sequence[str], display: Display) -> ScoredRun:
    record = generate.generate(run, folder, display)
    if record["stopped"] is not None:
        raise generate.RunInterrupted(False, folder)
    return read_scored(folder, names)


def _calibrated(
    folder: RunFolder,
    runs: Sequence[ScoredRun],
    labels: dict[Where, float],
    given: Labelled,
    members: Sequence[Member],
    labelling: Labelling,
) -> VerifierCalibration:
    """With the reference images written into the folder."""
    request = runs[0].run.request
    media, texts = _references(runs, labels, labelling.decoder)
    if media is not None and media.kind not in (IMAGE, VIDEO):
        raise UsageError(
            f"verifiers of {plural(media.kind)} cannot be calibrated: calibrate those of images or videos."
        )
    is_video = request.frames is not None if media is None else media.is_video
    frames, digest = request.per_frame if is_video else None, ""
    made = tuple(replace(m, spread=float(np.std(given.finals[:, k]))) for k, m in enumerate(members))
    if media is not None:
        pixels, again = eight_bit(media)
        saved: dict[str, str] = {}
        folder.write(IMAGES, lambda path: saved.update(digest=save_tensors(path, {"pixels": pixels})))
        digest, made = (
            saved["digest"],
            with_references(members, panel(members, frames), again, texts, given.finals),
        )
    about = {
        "model": request.model,
        "labels": labelling.judge or "file",
        "candidates": len(given.right),
        "right": float(given.right.mean()),
        "seed": request.seed,
        "versions": versions(),
    }
    if labelling.right_at is not None:
        about["right_at"] = labelling.right_at
    return VerifierCalibration.of(given, made, Reference(digest, tuple(texts)), frames, about)


def _references(
    runs: Sequence[ScoredRun], labels: dict[Where, float], decoder: Callable[[SavedRun], Decode]
) -> tuple[Media | None, list[str]]:
    """A right and a wrong candidate whose latents are there, with their prompts; None where there is none."""
    for i, r in enumerate(runs):
        told = [(f, labels.get((i, f.prompt, f.candidate.id))) for f in r.finals if f.file is not None]
        some = [f for wanted in (1.0, 0.0) for f in [next((f for f, v in told if v == wanted), None)] if f]
        if some:
            return decoder(r.run)(some), [r.run.request.prompts[f.prompt] for f in some]
    return None, []


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
