"""Carrying out `genscale calibrate-steps`: generate, score every preview, compare, write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from genscale.engine.events import Event, Scored
from genscale.errors import UsageError
from genscale.results import calibration, calibration_plot
from genscale.results.calibration import Calibration, Previews
from genscale.runs import generate, outputs, prepare
from genscale.runs.call_arguments import arguments
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder

PLOT = "calibration.png"


def calibrate(
    request: Request, candidates: int, threshold: float, out: Path | None, display: Display
) -> tuple[Path, Calibration]:
    """Measure, and write calibration.json and calibration.png in a folder (a fresh one by default)."""
    request = prepare.completed(replace(request, held_out=prepare.NONE)).seeded()
    parts = replace(prepare.check(request), sampler=Previews(candidates))
    Calibration((), threshold)  # refuses a threshold before anything is spent
    folder = RunFolder(out or RunFolder.fresh())
    folder.claim()
    try:
        if (folder.path / calibration.FILE).exists():
            raise UsageError(
                f"'{folder.path}' holds a calibration already: choose another folder with --out."
            )
        result = _search(request, parts, display)
        found = Calibration.of(result, threshold, _about(request, candidates, result))
        folder.write(PLOT, lambda path: calibration_plot.plot(found, path))
        folder.write(calibration.FILE, found.save)  # last: a folder that has it is complete
    except BaseException:
        folder.abandon()
        raise
    return folder.path, found


def _search(request: Request, parts: prepare.Parts, display: Display) -> Any:
    """The search result; nothing of it is kept on disk, since every preview's latents would be."""

    def on_event(event: Event) -> None:
        if not isinstance(event, Scored):  # which image is best is not the question
            display(event)

    pipe = generate.load_pipe(request, parts)
    scaled = generate.scaled_pipe(pipe, request, parts, on_event=on_event)
    plan = generate.planned(scaled, pipe, request, parts)
    display.start(plan.nfe * plan.prompts, plan.prompts)
    try:
        result = scaled(**arguments(pipe, request, parts.pictures)).search
    finally:
        display.stop()
    if result.stopped is not None:
        raise KeyboardInterrupt  # of a part of the candidates no ranks can be told
    return result


def _about(request: Request, candidates: int, result: Any) -> dict[str, Any]:
    """What was measured, in words that JSON holds."""
    names = ("steps", "guidance", "seed", "width", "height", "frames", "negative", "lora")
    asked = {name: value for name, value in request.as_dict().items() if name in names}
    return {
        "model": request.model,
        "verifiers": list(request.verifiers),
        "prompts": list(request.prompts),
        "candidates": candidates,
        **asked,
        "versions": outputs.versions(),
        "ledger": result.ledger.as_dict(),
    }
