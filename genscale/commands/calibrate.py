"""`genscale calibrate-steps`: generate, score every preview, compare with the final scores, write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from genscale.engine.events import Event, Scored
from genscale.results import calibration, calibration_plot
from genscale.results.calibration import Calibration, Previews
from genscale.results.result import SearchResult
from genscale.results.run_files import versions
from genscale.runs.complete_request import NONE
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder

PLOT = "calibration.png"


def calibrate(
    request: Request, candidates: int, threshold: float, out: Path | None, display: Display
) -> tuple[Path, Calibration]:
    """Measure, and write calibration.json and calibration.png in a folder (a fresh one by default)."""
    run = PreparedRun.of(replace(request, held_out=NONE).seeded())
    run = replace(run, sampler=Previews(candidates))
    Calibration((), threshold)  # refuses a threshold before anything is spent
    with RunFolder.for_calibration(out, calibration.FILE) as folder:
        result = _search(run, display)
        found = Calibration.of(result, threshold, _about(run.request, candidates, result))
        folder.write(PLOT, lambda path: calibration_plot.plot(found, path))
        folder.write(calibration.FILE, found.save)
    return folder.path, found


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
