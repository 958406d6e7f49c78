"""What a run leaves in its folder: images that know their origin, a contact sheet, and run.json."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from genscale import __version__
from genscale.engine.archive import Entry, recipe
from genscale.engine.stopping import Stop
from genscale.plugins import registry
from genscale.report import contact_sheet
from genscale.report.contact_sheet import SheetRow, Tile
from genscale.results.result import SearchResult
from genscale.runs import image_files
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from genscale.media import Item

RUNNERS = 4  # the best and the runners-up on the contact sheet
RUNNERS_OF_CLIPS = 2  # there, where each takes a line
ROWS = 12  # prompts on one contact sheet
_PACKAGES = ("torch", "diffusers", "transformers")


def write(
    folder: RunFolder,
    request: Request,
    result: SearchResult,
    winners: Sequence[Item] | None,
    sampler: Any,
    budget: Any,
    scheduler: str,
    seconds: float,
    plain: SearchResult | None = None,
) -> dict[str, Any]:
    """Write everything and return what run.json holds.

    winners: what the scaled pipeline returned, for all prompts; None of videos, which are decoded here one after the
    other. plain: the pipeline alone, for prompts whose search did not finish the pipeline's own candidate.
    """
    left = None if winners is None else list(winners)
    prompts, rows = [], []
    for i in range(len(result.prompts)):
        ranked = [e for e in result.ranking(i)[: request.images] if e.x is not None]
        base = _base(result, plain, i)
        shown = _shown(result, i, base, RUNNERS_OF_CLIPS if left is None else RUNNERS)
        decoded = _decoded(result, base, shown if left is not None else [*shown, *ranked], left is None)
        if left is None:
            best = [decoded[id(e)] for e in ranked]
        else:
            best, left = left[: len(ranked)], left[len(ranked) :]
        own = None if base is None else decoded[id(base[1])]
        prompts.append(
            _write_prompt(
                folder, request, result, i, list(zip(best, ranked, strict=True)), own, base, scheduler
            )
        )
        rows.append(_row(result, i, shown, decoded, base))
    sheets = _write_sheets(folder, rows, _title(request, result, sampler))
    record = _record(request, result, sampler, budget, seconds, plain) | {
        "prompts": prompts,
        "contact_sheets": sheets,
    }
    folder.write_json("run.json", record)
    return record


def _decoded(
    result: SearchResult, base: Base | None, entries: Sequence[Entry], singly: bool
) -> dict[int, Item]:
    """Images or videos by their entry's id; one after the other where they are large."""
    found: dict[int, Item] = {}
    for owner, some in _owned(result, base, list({id(e): e for e in entries}.values())):
        for part in [[e] for e in some] if singly else [some]:
            found |= dict(zip([id(e) for e in part], owner.media(part), strict=True))
    return found


def _write_prompt(
    folder: RunFolder,
    request: Request,
    result: SearchResult,
    i: int,
    best: Sequence[tuple[Item, Entry]],
    own: Item | None,
    base: Base | None,
    scheduler: str,
) -> dict[str, Any]:
    """The files of one prompt, and what run.json says of it."""
    summary = _summary(result, i, base)
    stem = f"{i:03d}-" if len(result.prompts) > 1 else ""
    again = {"genscale": __version__, "versions": versions(), "request": request.as_dict(), **summary}
    files = [
        image_files.write(folder, name, item, request, again | _shows(name, entry), scheduler)
        for n, (item, entry) in enumerate(best, 1)
        for name in (f"{stem}best" + (f"-{n}" if n > 1 else ""),)
    ]
    summary["files"] = {"best": [name for names in files for name in names]}
    summary["pictures"] = {names[0]: e.candidate.id for names, (_, e) in zip(files, best, strict=True)}
    if base is not None and own is not None:
        summary["files"]["base"] = image_files.write(
            folder, f"{stem}base", own, request,
            again | _shows(f"{stem}base", base[1]) | {"is_base": True}, scheduler,
        )  # fmt: skip
        if base[0] is result:  # not that of the pipeline alone, which this search has given up
            summary["pictures"].setdefault(summary["files"]["base"][0], base[1].candidate.id)
    return summary


def entry_dict(result: SearchResult, entry: Entry | None) -> dict[str, Any] | None:
    """A candidate with its scores in each role."""
    if entry is None:
        return None
    return {
        "candidate": entry.candidate.id,
        "origin": entry.candidate.origin,
        "parent": entry.candidate.parent,
        "total": result.total(entry),
        "search": dict(entry.scores),
        "select": dict(entry.select),
        "held_out": dict(entry.held_out),
        "nfe": entry.nfe,
        "seconds": round(entry.seconds, 3),
        **({"noise": dict(entry.candidate.measured)} if entry.candidate.measured else {}),
    }


def _shows(name: str, entry: Entry) -> dict[str, Any]:
    """What one image shows, for `genscale replay`: its file, and the recipe of its candidate."""
    return {"file": f"{name}.png", "shows": recipe(entry.candidate)}


def sampler_record(request: Request, sampler: Any) -> dict[str, Any]:
    """The sampler's name and every field, defaults too."""
    return {"name": request.sampler, **registry.described(sampler)}


def versions() -> dict[str, str]:
    """Of genscale, Python and the libraries that decide what an image looks like."""
    found = {"genscale": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


Base = tuple[SearchResult, Entry]
"""The pipeline's own candidate, and the run that finished it."""


def _base(result: SearchResult, plain: SearchResult | None, i: int) -> Base | None:
    for owner in (result, plain):
        entry = None if owner is None else owner.base(i)
        if owner is not None and entry is not None and entry.x is not None:
            return owner, entry
    return None


def _owned(
    result: SearchResult, base: Base | None, shown: Sequence[Entry]
) -> list[tuple[SearchResult, list[Entry]]]:
    """The entries by the run that can decode them."""
    foreign = [] if base is None or base[0] is result else [base]
    own = [e for e in shown if not any(e is entry for _, entry in foreign)]
    return [(owner, [entry]) for owner, entry in foreign] + ([(result, own)] if own else [])


def _summary(result: SearchResult, i: int, base: Base | None) -> dict[str, Any]:
    search, ranking, population = result.searches[i], result.ranking(i), result.population(i)
    weighted = {} if population is None else {"population": population.as_dict()}
    return {
        "prompt": result.prompts[i],
        "index": i,
        "best": entry_dict(result, ranking[0]) if ranking else None,
        "base": None if base is None else entry_dict(*base),
        "finished": len(ranking),
        "nfe": search.spent,
        "verifier_calls": search.calls,
        "stopped_by": None if search.stopped is None else asdict(search.stopped),
        "kl_of_best": result.kl(i),
        "curve": result.curve(i),
        **weighted,
    }


def _record(
    request: Request,
    result: SearchResult,
    sampler: Any,
    budget: Any,
    seconds: float,
    plain: SearchResult | None,
) -> dict[str, Any]:
    one = len(result.prompts) == 1
    first = _summary(result, 0, _base(result, plain, 0)) if one else {}
    return {
        "genscale": __version__,
        **({"prompt": first["prompt"], "best": first["best"], "base": first["base"]} if one else {}),
        "seed": request.seed,
        "model": request.model,
        "sampler": sampler_record(request, sampler),
        "verifiers": {"search": request.verifiers, "select": request.select, "held_out": request.held_out},
        "ensemble": request.ensemble,
        "budget": None if budget is None else str(result.budget),
        "stop": None if request.stop is None else str(Stop.parse(request.stop)),
        "stopped": result.stopped,
        "request": request.as_dict(),
        "versions": versions(),
        "wall_seconds": round(seconds, 3),
        "ledger": result.ledger.as_dict(),
        **({} if plain is None else {"ledger_of_base": plain.ledger.as_dict()}),
    }


def _shown(result: SearchResult, i: int, base: Base | None, most: int) -> list[Entry]:
    """The base first, then the best and the runners-up, as far as their latents were kept."""
    first = [] if base is None else [base[1]]
    best = [e for e in result.ranking(i)[:most] if not any(e is b for b in first)]
    return [e for e in first + best if e.x is not None]


def _row(
    result: SearchResult, i: int, shown: Sequence[Entry], decoded: dict[int, Item], own: Base | None
) -> SheetRow:
    ranking, base = result.ranking(i), None if own is None else own[1]
    places = {id(e): n for n, e in enumerate(ranking)}
    tiles = []
    for entry in shown:
        item, place = decoded[id(entry)], places.get(id(entry))
        label = "" if place is None else {0: "best", 1: "2nd", 2: "3rd"}.get(place, f"{place + 1}th")
        note = ""
        if entry is base:
            label = {0: "base = best", None: "base"}.get(place, f"base ({label})")
        elif own is not None:
            note = f"{result.total(entry) - own[0].total(own[1]):+.3f}"
        tiles.append(Tile.of(item, label, _score_lines(entry), note, winner=place == 0))
    return SheetRow(result.prompts[i], tuple(tiles))


def _score_lines(entry: Entry) -> tuple[str, ...]:
    lines = [f"{name}  {value:.4g}" for name, value in entry.scores.items()]
    lines += [f"{name}  {value:.4g}  (select)" for name, value in entry.select.items()]
    lines += [f"{name}  {value:.4g}  (held out)" for name, value in entry.held_out.items()]
    return tuple(lines)


def _title(request: Request, result: SearchResult, sampler: Any) -> str:
    spent = max((s.spent for s in result.searches), default=0)
    model = request.model.replace("\\", "/").rstrip("/").split("/")[-1]
    return (
        f"genscale {__version__} · {model} · {request.sampler} · {spent} NFE a prompt · seed {request.seed}"
    )


def _write_sheets(folder: RunFolder, rows: Sequence[SheetRow], title: str) -> list[str]:
    rows = [row for row in rows if row.tiles]
    names = []
    for page, start in enumerate(range(0, len(rows), ROWS), 1):
        picture = contact_sheet.sheet(rows[start : start + ROWS], title)
        name = "contact.png" if page == 1 else f"contact-{page}.png"
        folder.write(name, partial(picture.save, format="PNG"))
        names.append(name)
    return names
