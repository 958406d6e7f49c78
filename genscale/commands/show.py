"""`genscale show`: contact sheet, curve, tree and a table of a run, also of one that is not finished."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from genscale.commands.draw_tree import draw_trees
from genscale.errors import UsageError
from genscale.report import pareto_plot, score_curves
from genscale.report.contact_sheet import SheetRow
from genscale.report.model_names import short_model_name
from genscale.report.prompt_summary import (
    ROWS,
    PromptSummary,
    ScoredCandidate,
    curve_name,
    curve_panels,
    sheet_row,
)
from genscale.results.diversity import vendi_title
from genscale.results.run_files import selection_record, write_sheets
from genscale.runs.run_folder import RunFolder
from genscale.runs.saved_run import SavedRun, decoder_of, read_run


def show_folder(folder: Path, *, trust: bool = False, pareto: bool = False) -> dict[str, Any]:
    """What is printed; the images are written into the folder: contact.png, curve.png, tree.png.

    pareto: also pareto.png. UsageError: fewer than two scores picked the winner.
    """
    run = read_run(folder)
    several = max(len(run.totals.objectives(prompt)) for prompt in run.request.prompts)
    if pareto and several < 2:
        raise UsageError(
            f"a Pareto front needs two verifiers that pick the winner, and the run in '{folder}' has {several}: show "
            "it without --pareto."
        )
    target = RunFolder(run.folder)
    record = run.record or {}
    summaries = [run.summary(i) for i in range(len(run.finals))]
    finished = [s for s in summaries if s.finals]
    sheets = [n for n in record.get("contact_sheets", []) if (run.folder / n).is_file()]
    if not sheets:
        sheets = write_sheets(target, _rows(run, summaries, trust), _title(run))
    panels = curve_panels({curve_name(len(finished)): finished})
    title = " · ".join(filter(None, (_title(run), vendi_title(record.get("prompts", [])))))
    target.write("curve.png", partial(score_curves.draw, panels, title))
    fronts = _draw_fronts(target, finished, _title(run)) if pareto else []
    trees = draw_trees(run.folder, most=ROWS)
    return {
        "folder": str(run.folder),
        "finished": run.record is not None and record.get("stopped") is None,
        "seed": run.request.seed,
        "model": run.request.model,
        "sampler": run.request.sampler,
        "budget": run.request.budget,
        "ensemble": run.request.ensemble,
        "pool": run.request.pool,
        "draft": run.request.draft,
        "prompts": [_prompt_record(i, s, run.prompt_record(i)) for i, s in enumerate(summaries) if s.finals],
        "dropped": [dict(failure) for some in run.dropped for failure in some],
        "without_candidate": [s.prompt for s in summaries if not s.finals],
        "turning_points": [turn.as_dict() for panel in panels for turn in panel.turns()],
        "turned": [turn.text() for panel in panels for turn in panel.turns() if turn.turned],
        "files": [*sheets, "curve.png", *fronts, *trees],
    }


def _draw_fronts(target: RunFolder, summaries: list[PromptSummary], title: str) -> list[str]:
    target.write("pareto.png", partial(pareto_plot.draw, summaries, title))
    return ["pareto.png"]


def _prompt_record(index: int, summary: PromptSummary, record: Mapping[str, Any]) -> dict[str, Any]:
    base, best = summary.base, summary.ranking[0]
    return {
        "prompt": summary.prompt,
        "index": index,
        "candidates": len(summary.finals),
        "nfe": max(c.nfe for c in summary.finals),
        "best": _scores(best),
        "base": record.get("base") or (None if base is None else _scores(base)),
        "diversity": record.get("diversity"),
        "curve": [{"nfe": c.nfe, **_scores(c)} for c in summary.best_so_far()],
        **selection_record(summary),
    }


def _scores(candidate: ScoredCandidate) -> dict[str, Any]:
    return {
        "candidate": candidate.id,
        "total": candidate.total,
        "search": dict(candidate.search),
        "select": dict(candidate.select),
        "held_out": dict(candidate.held_out),
        **({"broken": list(candidate.broken)} if candidate.broken else {}),
    }


def _rows(run: SavedRun, summaries: list[PromptSummary], trust: bool) -> list[SheetRow]:
    """Rows of the contact sheet, as far as latents are kept."""
    decode, rows = decoder_of(run, trust=trust), list[SheetRow]()
    for summary, finals in zip(summaries, run.finals, strict=True):
        shown = summary.to_show()
        if shown and len(rows) < ROWS:
            items = list(decode([finals[c.place] for c in shown]))
            rows.append(sheet_row(summary, shown, items, best="best" if run.record else "best so far"))
    return rows


def _title(run: SavedRun) -> str:
    draft = f" · draft {run.request.draft}" if run.request.draft else ""
    return f"{short_model_name(run.request.model)} · {run.request.sampler}{draft} · seed {run.request.seed}"
