"""Finished candidates of run folders with the scores of their previews, and their labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genscale.commands.rescore import score_finals
from genscale.commands.score_files import verifiers_of
from genscale.engine.archive import read_archive
from genscale.engine.judged_kinds import check_judges
from genscale.engine.recipes import candidate_of
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError, quoted
from genscale.results.verifier_calibration import Labelled
from genscale.runs.progress import Display
from genscale.runs.saved_run import Decode, Final, SavedRun, is_independent, read_run
from genscale.safe_json import read_text

YES, NO = ("1", "1.0", "yes", "true", "right"), ("0", "0.0", "no", "false", "wrong")
_FORM = "columns image,label, or prompt,candidate,label, and run where there are several"

Where = tuple[int, int, int]
"""(number of the run, prompt, candidate id)."""


@dataclass(frozen=True)
class ScoredRun:
    """A run. steps: model calls of a candidate. previews: {(prompt, candidate id): {step: scores [K]}}."""

    run: SavedRun
    steps: int
    finals: tuple[Final, ...]
    previews: Mapping[tuple[int, int], Mapping[int, tuple[float, ...]]]


def read_scored(folder: Path, verifiers: Sequence[str]) -> ScoredRun:
    """UsageError: no run, or one that cannot be calibrated on; verifiers: names of the scores."""
    run = read_run(folder)
    finals = tuple(f for some in run.finals for f in some)
    if not is_independent(run.request):
        raise UsageError(
            f"the candidates of '{folder}' are no independent draws of the model, since {run.request.sampler} chooses "
            "them by their scores: calibrate on runs of best_of_n."
        )
    for name in verifiers:
        if any(name not in f.scores for f in finals):
            raise UsageError(
                f"the run in '{folder}' was not searched with '{name}', but with "
                f"{', '.join(finals[0].scores) or 'none'}: calibrate these, or give prompts, to make candidates for it."
            )
    records = [r for r in read_archive(run.folder)[1:] if r["kind"] == "score"]
    steps = {r["step"] for r in records if r["final"]}
    if len(steps) != 1:
        raise UsageError(f"the candidates of '{folder}' took different numbers of steps: calibrate on one.")
    made = {(f.prompt, f.candidate.id): f.candidate for f in finals}
    found: dict[tuple[int, int], dict[int, tuple[float, ...]]] = {where: {} for where in made}
    for r in records:
        where = (r["prompt"], r["candidate"])
        if not r["final"] and made.get(where) == candidate_of(r):
            found[where][r["step"]] = tuple(r["scores"][name] for name in verifiers)
    return ScoredRun(run, steps.pop(), finals, found)


def labelled(runs: Sequence[ScoredRun], labels: Mapping[Where, float], verifiers: Sequence[str]) -> Labelled:
    """The candidates that have a label. Previews count at the steps at which all of them were scored."""
    steps = {r.steps for r in runs}
    if len(steps) > 1:
        raise UsageError(
            f"the runs have {' and '.join(map(str, sorted(steps)))} steps: calibrate each number of steps by itself."
        )
    some = [
        (r, f, label)
        for i, r in enumerate(runs)
        for f in r.finals
        if (label := labels.get((i, f.prompt, f.candidate.id))) is not None
    ]
    texts = list(dict.fromkeys(r.run.request.prompts[f.prompt] for r, f, _ in some))
    previews = [r.previews[f.prompt, f.candidate.id] for r, f, _ in some]
    shared = sorted(set.intersection(*map(set, previews))) if previews else []
    total, count = runs[0].steps, len(verifiers)
    return Labelled(
        tuple(step / total for step in shared),
        np.array([[p[step] for p in previews] for step in shared]).reshape(len(shared), len(some), count),
        np.array([[f.scores[name] for name in verifiers] for _, f, _ in some]).reshape(len(some), count),
        np.array([label for _, _, label in some], dtype=np.float64),
        np.array([texts.index(r.run.request.prompts[f.prompt]) for r, f, _ in some], dtype=np.int64),
        tuple(texts),
        total,
    )


# ---------------------------------------------------------------- labels by a judge


def judged(
    runs: Sequence[ScoredRun],
    judge: str,
    name: str,
    right_at: float | None,
    display: Display,
    decoder: Callable[[SavedRun], Decode],
) -> dict[Where, float]:
    """1 where the judge's score is `right_at` or more. None: 0.5, for a judge whose scores are in [0, 1].

    judge: the verifier as on the command line; name: of its scores. decoder: of candidates that it has not scored yet.
    """
    found: dict[Where, float] = {}
    for i, r in enumerate(runs):
        known = {(f.prompt, f.candidate.id): {**f.held_out, **f.select}.get(name) for f in r.finals}
        scores = {where: score for where, score in known.items() if score is not None}
        if len(scores) < len(known):
            scores = _scored_now(r, judge, display, decoder)
        found |= {(i, *where): score for where, score in scores.items()}
    low, high = min(found.values(), default=0.0), max(found.values(), default=0.0)
    if right_at is None and not 0 <= low <= high <= 1:
        raise UsageError(
            f"'{judge}' scores from {low:.3g} to {high:.3g}: say with --right-at from which score on an image is right."
        )
    threshold = 0.5 if right_at is None else right_at
    return {where: float(score >= threshold) for where, score in found.items()}


def _scored_now(
    r: ScoredRun, judge: str, display: Display, decoder: Callable[[SavedRun], Decode]
) -> dict[tuple[int, int], float]:
    pools = [[f for f in some if f.file is not None] for some in r.run.finals]
    if not any(pools):
        raise UsageError(f"'{r.run.folder}' holds no latents that '{judge}' could score: label by --labels.")
    decode, panel = decoder(r.run), verifiers_of([judge], r.run.request.per_frame)
    first = next(f for pool in pools for f in pool)
    texts = [text for text, pool in zip(r.run.request.prompts, pools, strict=True) if pool]
    media = decode([first])
    check_judges(Roles(panel), {media.kind}, "the pipeline of these candidates makes")
    panel.prepare(texts, media.device)
    rows = score_finals(r.run, pools, panel, decode, display)
    return {where: float(row[0]) for where, row in rows.items()}


# ---------------------------------------------------------------- labels by the user


def read_labels(file: Path, runs: Sequence[ScoredRun]) -> dict[Where, float]:
    """Labels of a CSV file: `image,label`, by the name of a picture in a run folder, or `prompt,candidate,label`, by
    the prompt's text or number and the candidate's id, with `run` where there are several.

    label: 1 or 0, yes or no, true or false, right or wrong. UsageError: a line that cannot be understood.
    """
    found: dict[Where, float] = {}
    rows = csv.DictReader(io.StringIO(read_text(file, f"label file '{file}'"), newline=""))
    try:
        for number, row in enumerate(rows, 2):
            what = f"label file '{file}', line {number}:"
            plain = {str(k).strip().lower(): (v or "").strip() for k, v in row.items() if isinstance(v, str)}
            where, label = _where(plain, what, file, runs), _label(plain, what)
            if found.setdefault(where, label) != label:
                raise UsageError(f"{what} this candidate was labelled otherwise before: label it once.")
    except csv.Error as error:
        raise UsageError(f"label file '{file}' cannot be read ({error}): write {_FORM}.") from None
    if not found:
        raise UsageError(f"label file '{file}' holds no label: write {_FORM}.")
    return found


def _label(row: Mapping[str, str], what: str) -> float:
    text = row.get("label", "").lower()
    if text not in YES + NO:
        raise UsageError(f"{what} label {quoted(text)} is neither right nor wrong: write 1 or 0.")
    return float(text in YES)


def _where(row: Mapping[str, str], what: str, file: Path, runs: Sequence[ScoredRun]) -> Where:
    if row.get("image"):
        return _of_picture(row["image"], what, file, runs)
    if not row.get("prompt") or not row.get("candidate"):
        raise UsageError(f"{what} it names neither an image nor a prompt and a candidate: write {_FORM}.")
    number = _run(row.get("run", ""), what, file, runs)
    prompts, text = runs[number].run.request.prompts, row["prompt"]
    index = (
        prompts.index(text) if text in prompts else int(text) if text.isdecimal() and len(text) < 10 else -1
    )
    ids = {f.candidate.id for f in runs[number].finals if f.prompt == index}
    for candidate in ids:
        if str(candidate) == row["candidate"]:
            return number, index, candidate
    raise UsageError(f"{what} there is no finished candidate {quoted(row['candidate'])} of {quoted(text)}.")


def _run(name: str, what: str, file: Path, runs: Sequence[ScoredRun]) -> int:
    """The number of a run, by its folder."""
    if not name and len(runs) == 1:
        return 0
    places = {Path(name).expanduser().resolve(), (file.parent / name).resolve()} if name else set()
    for i, r in enumerate(runs):
        if r.run.folder.resolve() in places:
            return i
    raise UsageError(f"{what} it does not say in which of the runs: give the folder as run.")


def _of_picture(image: str, what: str, file: Path, runs: Sequence[ScoredRun]) -> Where:
    """The candidate that a picture shows, by what run.json says of it."""
    path = Path(image).expanduser()
    folders = {path.resolve().parent, (file.parent / path).resolve().parent}
    for i, r in enumerate(runs):
        if r.run.folder.resolve() not in folders and not (len(runs) == 1 and path.name == image):
            continue
        for record in (r.run.record or {}).get("prompts", ()):
            candidate = record.get("pictures", {}).get(path.name)
            if candidate is not None:
                return i, record["index"], candidate
    raise UsageError(f"{what} {quoted(image)} is no picture of a candidate in the run folders.")
