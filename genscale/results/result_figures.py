"""A search result to look at: its score_curves, its contact sheet, its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genscale.report import contact_sheet, score_curves
from genscale.report.contact_sheet import SheetRow, Tile
from genscale.report.score_curves import Curve, CurvePanel

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from genscale.engine.archive import Entry
    from genscale.results.result import SearchResult

SEVERAL = 12  # prompts on a sheet


def plot(results: Mapping[str, SearchResult], title: str = "") -> Figure:
    """Best score so far against NFE, of several searches of the same prompts, and what held-out verifiers say of it."""
    return score_curves.figure(panels(results), title)


def panels(results: Mapping[str, SearchResult]) -> list[CurvePanel]:
    """Of the searched score, where all have the same, and of each that was held out."""
    first = next(iter(results.values()))
    names = {searched(result) for result in results.values()}
    found = []
    if len(names) == 1 and first.searches[0].roles.judge.members:
        alone = len(results) == len(first.prompts) == 1
        dots = [(float(e.nfe), first.total(e)) for e in first.searches[0].finals] if alone else []
        base = [None if e is None else first.total(e) for e in _bases(first)]
        found.append(
            CurvePanel(names.pop(), [_curve(n, r, None) for n, r in results.items()], _level(base), dots)
        )
    for judge in first.searches[0].roles.held_out.names:
        base = [None if e is None else e.held_out.get(judge) for e in _bases(first)]
        lines = [_curve(n, r, judge) for n, r in results.items()]
        found.append(CurvePanel(f"{judge} (held out)", lines, _level(base)))
    return found


def searched(result: SearchResult) -> str:
    """The score that picks, by the verifiers that it is made of."""
    return "+".join(result.searches[0].roles.judge.names)


def _bases(result: SearchResult) -> list[Entry | None]:
    return [result.base(i) for i in range(len(result.prompts))]


def _level(values: Sequence[float | None]) -> tuple[str, float] | None:
    """The pipeline's own candidates, where every prompt has one."""
    known = [v for v in values if v is not None]
    whole = known and len(known) == len(values)
    return ("base", sum(known) / len(known)) if whole else None


def _curve(name: str, result: SearchResult, judge: str | None) -> Curve:
    """Of every prompt its new bests, carried on to where its search ended."""
    lines = []
    for i, search in enumerate(result.searches):
        points = [
            (float(p["nfe"]), float(p["total"] if judge is None else p["held_out"][judge]))
            for p in result.curve(i)
            if judge is None or judge in p["held_out"]
        ]
        if points and points[-1][0] < search.spent:
            points.append((float(search.spent), points[-1][1]))
        lines.append(points)
    return Curve(name, lines)


def sheet(result: SearchResult, runners: int = 3, title: str = "") -> Image.Image:
    """For each of the first prompts its base, its best and its runners-up, as far as their latents were kept."""
    rows = []
    for i, prompt in enumerate(result.prompts[:SEVERAL]):
        base, ranking = result.base(i), result.ranking(i)
        shown = [e for e in ranking[: runners + 1] if e is not base]
        shown = [e for e in ([] if base is None else [base]) + shown if e.x is not None]
        if shown:
            pictures = zip(shown, result.media(shown), strict=True)
            rows.append(
                SheetRow(prompt, tuple(_tile(result, e, item, ranking, base) for e, item in pictures))
            )
    if not rows:
        raise ValueError(
            "no prompt has a finished candidate whose latents were kept: there is nothing to show"
        )
    return contact_sheet.sheet(rows, title or f"{result.ledger.nfe} NFE")


def _tile(
    result: SearchResult, entry: Entry, item: Any, ranking: Sequence[Entry], base: Entry | None
) -> Tile:
    place = next(n for n, e in enumerate(ranking, 1) if e is entry)
    label = "best" if place == 1 else f"number {place}"
    if entry is base:
        label = "base = best" if place == 1 else f"base (number {place})"
    gain = "" if base is None or entry is base else f"{result.total(entry) - result.total(base):+.3f}"
    lines = [f"{name}  {value:.4g}" for name, value in (entry.scores | entry.select).items()]
    lines += [f"{name}  {value:.4g}  (held out)" for name, value in entry.held_out.items()]
    return Tile.of(item, label, tuple(lines), gain, winner=place == 1)


def records(result: SearchResult, prompt: int = 0) -> list[dict[str, Any]]:
    """Finished candidates of a prompt, best first. Held-out scores are those of every new best and of the base."""
    found = []
    for entry in result.ranking(prompt):
        scores = {f"{n}": v for n, v in (entry.scores | entry.select).items()}
        found.append(
            {
                "candidate": entry.candidate.id,
                "origin": entry.candidate.origin,
                "parent": entry.candidate.parent,
                **({"total": result.total(entry)} if len(scores) > 1 else {}),
                **scores,
                **{f"{n} (held out)": v for n, v in entry.held_out.items()},
                "NFE": entry.nfe,
            }
        )
    return found


def summaries(result: SearchResult) -> list[dict[str, Any]]:
    """One record a prompt: base and best by the searched and by the held-out scores."""
    found: list[dict[str, Any]] = []
    for i, prompt in enumerate(result.prompts):
        base, best = result.base(i), next(iter(result.ranking(i)), None)
        told: dict[str, Any] = {"prompt": prompt}
        for name, entry in (("base", base), ("best", best)):
            if entry is not None:
                told[f"{name} {searched(result)}".strip()] = result.total(entry)
                told |= {f"{name} {n} (held out)": v for n, v in entry.held_out.items()}
        found.append(told | {"candidates": len(result.ranking(i)), "NFE": result.searches[i].spent})
    return found
