"""Carrying out `genscale show`: contact sheet, curve, lineage and a table of a run, also of one that is not over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from genscale.commands import draw_tree
from genscale.report import contact_sheet, score_curves
from genscale.report.contact_sheet import SheetRow, Tile
from genscale.report.score_curves import Curve, CurvePanel
from genscale.runs import saved_run
from genscale.runs.outputs import ROWS, RUNNERS
from genscale.runs.run_folder import RunFolder
from genscale.runs.saved_run import Final, SavedRun, Show


def show(folder: Path) -> dict[str, Any]:
    """What is printed; the images are written into the folder: contact.png, curve.png, tree.png."""
    run = saved_run.read(folder)
    target = RunFolder(run.folder)
    ended = _ended(run.folder)
    bases = _bases(run, ended)
    sheets = [n for n in (ended or {}).get("contact_sheets", []) if (run.folder / n).is_file()]
    if not sheets:
        sheet = contact_sheet.sheet(_rows(run, saved_run.shower(run)), _title(run))
        target.write("contact.png", partial(sheet.save, format="PNG"))
        sheets = ["contact.png"]
    target.write("curve.png", partial(score_curves.draw, panels(run, bases), _title(run)))
    trees = draw_tree.draw_trees(run.folder, most=ROWS)
    return {
        "folder": str(run.folder),
        "finished": ended is not None and ended.get("stopped") is None,
        "seed": run.request.seed,
        "model": run.request.model,
        "sampler": run.request.sampler,
        "budget": run.request.budget,
        "prompts": [_summary(run, i, bases.get(i)) for i, finals in enumerate(run.finals) if finals],
        "without_candidate": [run.request.prompts[i] for i, finals in enumerate(run.finals) if not finals],
        "files": [*sheets, "curve.png", *trees],
    }


def best_so_far(finals: Sequence[Final]) -> list[Final]:
    """Each that was the best when it was scored."""
    found: list[Final] = []
    for final in finals:
        if not found or final.total > found[-1].total:
            found.append(final)
    return found


def _bases(run: SavedRun, ended: dict[str, Any] | None) -> dict[int, dict[str, Any]]:
    """Scores of the pipeline's own image; of a search that gave it up, from the record at the end of the run."""
    told = {p["index"]: p.get("base") for p in (ended or {}).get("prompts", [])}
    own = {i: base for i in range(len(run.finals)) if (base := run.base(i)) is not None}
    found = {i: told.get(i) or (_told(own[i]) if i in own else None) for i in range(len(run.finals))}
    return {i: base for i, base in found.items() if base is not None}


def panels(run: SavedRun, bases: dict[int, dict[str, Any]]) -> list[CurvePanel]:
    """Of the searched score, and of each that was held out."""
    leaders = [best_so_far(finals) for finals in run.finals if finals]
    name = "best so far" if len(leaders) == 1 else f"mean best of {len(leaders)} prompts, 95 % interval"
    points = [[(float(f.nfe), f.total) for f in bests] for bests in leaders]
    whole = len(bases) == len(leaders)
    dots = [(float(f.nfe), f.total) for f in run.finals[0]] if len(leaders) == 1 else []
    searched = "+".join(run.request.select or run.request.verifiers)
    ends = [max((float(f.nfe) for f in finals), default=0.0) for finals in run.finals if finals]
    found = [
        CurvePanel(
            searched,
            [Curve(name, _to(points, ends))],
            _base([b["total"] for b in bases.values()], whole),
            dots,
        )
    ]
    for judge in leaders[0][0].held_out:
        held = [
            [(float(f.nfe), f.held_out[judge]) for f in bests if judge in f.held_out] for bests in leaders
        ]
        levels = [b["held_out"][judge] for b in bases.values() if judge in b["held_out"]]
        found.append(CurvePanel(f"{judge} (held out)", [Curve(name, _to(held, ends))], _base(levels, whole)))
    return found


def _to(
    points: Sequence[list[tuple[float, float]]], ends: Sequence[float]
) -> list[list[tuple[float, float]]]:
    """Curves carried on to where their search ended."""
    return [[*p, (end, p[-1][1])] if p and p[-1][0] < end else p for p, end in zip(points, ends, strict=True)]


def _base(values: Sequence[float], whole: bool) -> tuple[str, float] | None:
    return ("base", sum(values) / len(values)) if values and whole else None


def _summary(run: SavedRun, i: int, base: dict[str, Any] | None) -> dict[str, Any]:
    best = run.ranking(i)[0]
    return {
        "prompt": run.request.prompts[i],
        "index": i,
        "candidates": len(run.finals[i]),
        "nfe": max(f.nfe for f in run.finals[i]),
        "best": _told(best),
        "base": base,
        "curve": [{"nfe": f.nfe, **_told(f)} for f in best_so_far(run.finals[i])],
    }


def _told(final: Final) -> dict[str, Any]:
    return {
        "candidate": final.candidate.id,
        "total": final.total,
        "search": final.scores,
        "select": final.select,
        "held_out": final.held_out,
    }


def _rows(run: SavedRun, decode: Show) -> list[SheetRow]:
    rows: list[SheetRow] = []
    for i in range(len(run.finals)):
        base, ranking = run.base(i), run.ranking(i)
        best = [f for f in ranking if f.file is not None and f is not base][:RUNNERS]
        shown = ([base] if base is not None and base.file is not None else []) + best
        if not shown or len(rows) == ROWS:
            continue
        tiles = []
        for final, item in zip(shown, decode(shown), strict=True):
            place = ranking.index(final) + 1
            label = "best so far" if place == 1 else f"number {place}"
            label = label if final is not base else "base" + (" = best so far" if place == 1 else "")
            tiles.append(Tile.of(item, label, _lines(final), winner=place == 1))
        rows.append(SheetRow(run.request.prompts[i], tuple(tiles)))
    return rows


def _lines(final: Final) -> tuple[str, ...]:
    lines = [f"{name}  {value:.4g}" for name, value in final.scores.items()]
    return (*lines, *(f"{name}  {value:.4g}  (held out)" for name, value in final.held_out.items()))


def _title(run: SavedRun) -> str:
    model = run.request.model.replace("\\", "/").rstrip("/").split("/")[-1]
    return f"{model} · {run.request.sampler} · seed {run.request.seed}"


def _ended(folder: Path) -> dict[str, Any] | None:
    """What run.json says; None of a run that is not over."""
    try:
        record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record
