"""The images of a comparison: a grid of the best images, ROWS prompts a page, and curves of score against NFE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from genscale.commands.compare_entries import BUDGET, ComparedRun
from genscale.report import film_strip, image_grid, score_curves, video_files
from genscale.report.image_grid import Cell
from genscale.report.model_names import short_model_name
from genscale.report.prompt_summary import base_level, curve_panels
from genscale.report.score_curves import Curve, CurvePanel
from genscale.results.comparison import ComparedRow, Comparison, ScoreSummary
from genscale.runs.run_folder import RunFolder
from genscale.runs.saved_run import read_run

ROWS = 12  # prompts on one page
FEW, LARGE, SMALL = 4, 192, 128  # so few columns have large images


def with_figures(
    folder: RunFolder, found: Comparison, entries: Sequence[ComparedRun], records: Sequence[dict[str, Any]]
) -> Comparison:
    """With the names of the files, and the turning points of the curves."""
    names = []
    files = [_files(folder.path / entries[0].folder, records[0], "base")]
    files += [_files(folder.path / e.folder, r, "best") for e, r in zip(entries, records, strict=True)]
    for page, start in enumerate(range(0, len(found.prompts), ROWS), 1):
        name = "grid.png" if page == 1 else f"grid-{page}.png"
        image = _page(found, files, range(start, min(start + ROWS, len(found.prompts))), entries)
        folder.write(name, partial(image.save, format="PNG"))
        names.append(name)
    panels = _panels(folder.path, found, entries)
    if panels:
        folder.write("curves.png", partial(score_curves.draw, panels, title(found, entries)))
        names.append("curves.png")
    turns = tuple(turn for panel in panels for turn in panel.turns())
    return replace(found, folder=str(folder.path), files=tuple(names), turns=turns)


def title(found: Comparison, entries: Sequence[ComparedRun]) -> str:
    request = entries[0].request
    parts = [short_model_name(request.model)]
    parts += [] if found.axis == "sampler" else [request.sampler]
    parts += [] if found.budget is None else [f"{found.budget} a prompt"]
    return " · ".join([*parts, f"{len(found.prompts)} prompts", f"seed {found.seed}"])


def _files(folder: Path, record: dict[str, Any], which: str) -> list[Path | None]:
    """The image of each prompt."""
    found = []
    for told in record["prompts"]:
        names = told["files"].get(which) or []
        path = folder / names[0] if names else None
        found.append(path if path is not None and path.is_file() else None)
    return found


def _page(
    found: Comparison, files: Sequence[Sequence[Path | None]], prompts: range, entries: Sequence[ComparedRun]
) -> Image.Image:
    rows = []
    for i in prompts:
        best = _best(found, i)
        cells = [
            Cell(_opened(paths[i]), _lines(row, i), row.name in best)
            for row, paths in zip(found.rows, files, strict=True)
        ]
        rows.append((found.prompts[i], cells))
    note = (
        ""
        if found.searched is None
        else f"first line: {found.searched} (searched; the highest of a row is framed)"
    )
    judges = ", ".join(f"{name} (held out)" for name in found.rows[1].held_out)
    note = "; ".join(
        part for part in (note, f"{'below' if note else 'lines'}: {judges}" if judges else "") if part
    )
    tile = LARGE if len(found.rows) <= FEW else SMALL
    return image_grid.grid([row.name for row in found.rows], rows, title(found, entries), note, tile)


def _best(found: Comparison, i: int) -> list[str]:
    """The entries with the highest searched score of a prompt, as printed; none where the scores do not compare."""
    if found.searched is None:
        return []
    told = {row.name: row.searched.each[i] for row in found.rows if row.searched is not None}
    known = {name: round(v, 4) for name, v in told.items() if v is not None}
    return [name for name, v in known.items() if v == max(known.values())]


def _lines(row: ComparedRow, i: int) -> tuple[str, ...]:
    values = [] if row.searched is None else [row.searched.each[i]]
    told = [f"{v:.4f}" for v in values if v is not None]
    held = [(name, scores.each[i]) for name, scores in row.held_out.items()]
    return (*told, *(f"{name} {v:.3g}" for name, v in held if v is not None))


def _opened(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    video = path.with_suffix(".mp4")
    if video.is_file():
        return film_strip.strip([Image.fromarray(frame) for frame in video_files.read_frames(video)], most=4)
    with Image.open(path) as image:
        return image.convert("RGB")


def _panels(folder: Path, found: Comparison, entries: Sequence[ComparedRun]) -> list[CurvePanel]:
    if found.axis == BUDGET:
        return _of_budgets(found)
    searches = {}
    for row, entry in zip(found.entries, entries, strict=True):
        run = read_run(folder / entry.folder)
        summaries = [run.summary(i) for i in range(len(run.finals))]
        # Entries that were searched with different verifiers have no score in common but the held-out ones.
        searches[row.name] = [replace(s, searched=found.searched or "") for s in summaries]
    return curve_panels(searches)


def _of_budgets(found: Comparison) -> list[CurvePanel]:
    """One curve through the entries."""
    rows = sorted(found.entries, key=lambda row: row.nfe or 0.0)
    base = found.rows[0]
    scores: list[tuple[str | None, ScoreSummary | None, list[ScoreSummary | None]]]
    scores = [] if found.searched is None else [(None, base.searched, [r.searched for r in rows])]
    scores += [(judge, base.held_out[judge], [r.held_out[judge] for r in rows]) for judge in rows[0].held_out]
    panels = []
    for judge, of_base, of_rows in scores:
        points = [
            [
                (float(r.nfe or 0), v)
                for r, s in zip(rows, of_rows, strict=True)
                if s and (v := s.each[i]) is not None
            ]
            for i in range(len(found.prompts))
        ]
        level = None if of_base is None else base_level(of_base.each)
        curve = Curve("best within the budget", points, steps=False)
        name = found.searched or "" if judge is None else f"{judge} (held out)"
        panels.append(CurvePanel(name, [curve], level, judge=judge))
    return panels
