"""`genscale calibrate-steps`: generate, score every preview, compare with the final scores, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genscale.engine.events import Event, Scored
from genscale.numerics.conformal import conformal_quantile
from genscale.pipelines.draft import Draft
from genscale.results import calibration, calibration_plot
from genscale.results.calibration import Calibration, Previews
from genscale.results.draft_calibration import ALPHA, MeasuredDraft, totals
from genscale.results.result import SearchResult
from genscale.results.run_files import versions
from genscale.runs.complete_request import NONE
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder
from genscale.samplers.best_of_n import BestOfN

PLOT = "calibration.png"


def calibrate(
    request: Request,
    candidates: int,
    threshold: float,
    out: Path | None,
    display: Display,
    drafts: Sequence[str] = (),
    alpha: float = ALPHA,
) -> tuple[Path, Calibration]:
    """Measure, and write calibration.json and calibration.png in a folder (a fresh one by default).

    drafts: ways to draft the same candidates, which are measured, too. alpha: of their margins.
    """
    wanted = [replace(Draft.parse(text), keep=1, margin=None) for text in drafts]
    conformal_quantile([], alpha)  # refuses an alpha before anything is spent
    run = PreparedRun.of(replace(request, held_out=NONE).seeded())
    run = replace(run, sampler=Previews(candidates))
    Calibration((), threshold)  # refuses a threshold before anything is spent
    for draft in wanted:
        _drafting(run, draft, candidates).plan()  # refuses a draft before anything is spent
    with RunFolder.for_calibration(out, calibration.FILE) as folder:
        result = _search(run, display)
        about = _about(run.request, candidates, result)
        if wanted:
            about["drafts"] = [_drafted(run, draft, result, alpha, display).as_dict() for draft in wanted]
        found = Calibration.of(result, threshold, about)
        folder.write(PLOT, lambda path: calibration_plot.plot(found, path))
        folder.write(calibration.FILE, found.save)
    return folder.path, found


def _drafted(
    run: PreparedRun, draft: Draft, full: SearchResult, alpha: float, display: Display
) -> MeasuredDraft:
    """The candidates of a calibration once more, drafted."""
    count = len(full.searches[0].finals)
    found = _search(_drafting(run, draft, count), display)
    assert found.drafts is not None
    cost = draft.cost * found.drafts.base_nfe / found.base_nfe
    return MeasuredDraft.of(draft.way, cost, totals(found.drafts), totals(full), alpha)


def _drafting(run: PreparedRun, draft: Draft, candidates: int) -> PreparedRun:
    return replace(run, sampler=BestOfN(candidates), draft=draft)


def _search(run: PreparedRun, display: Display) -> SearchResult:
    """The search result. It has no folder, which would fill with the latents of every preview."""

    def on_event(event: Event) -> None:
        if not isinstance(event, Scored):  # a calibration does not show which candidate leads
            display(event)

    with display.busy(f"loading {run.request.model}"):
        plan = run.plan()
    display.start(replace(plan, candidates=None))  # Scored events are not passed on
    try:
        result: SearchResult = run.scaled(on_event=on_event)(**run.seeded_call()).search
    finally:
        display.stop()
    if result.stopped is not None:
        raise KeyboardInterrupt  # ranks need all the candidates
    return result


def _about(request: Request, candidates: int, result: SearchResult) -> dict[str, Any]:
    """What was measured, as JSON."""
    names = ("steps", "guidance", "seed", "width", "height", "frames", "negative", "lora")
    asked = {name: value for name, value in request.as_dict().items() if name in names}
    return {
        "model": request.model,
        "verifiers": list(request.verifiers),
        "prompts": list(request.prompts),
        "candidates": candidates,
        **asked,
        "versions": versions(),
        "ledger": result.ledger.as_dict(),
    }
