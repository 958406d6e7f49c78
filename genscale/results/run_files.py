"""The files of a finished run: images that say how they were made, a contact sheet, and run.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from genscale import __version__
from genscale.engine.archive import Entry
from genscale.engine.recipes import recipe
from genscale.engine.stopping import Stop
from genscale.report import contact_sheet, image_files
from genscale.report.contact_sheet import SheetRow
from genscale.report.file_names import FileNames
from genscale.report.model_names import short_model_name
from genscale.report.output_folder import OutputFolder
from genscale.report.prompt_summary import FOREIGN_BASE, ROWS, RUNNERS_UP, PromptSummary, sheet_row
from genscale.results.diversity import diversity_of, pixels_of, vendi_title
from genscale.results.run_description import RunDescription
from genscale.results.search_outcome import SearchOutcome, scored_candidate

if TYPE_CHECKING:
    from genscale.media import Item

RUNNERS_UP_OF_LARGE = 1  # each takes a line of the contact sheet
_PACKAGES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True, eq=False)
class FoundPrompt:
    """One prompt's result. base: the pipeline's own candidate, and the search that finished it."""

    result: SearchOutcome
    index: int
    base: tuple[SearchOutcome, Entry] | None

    @staticmethod
    def of(result: SearchOutcome, plain: SearchOutcome | None, index: int) -> FoundPrompt:
        """plain: a search of the pipeline alone, for a base that the search itself did not finish."""
        for owner in (result, plain):
            entry = None if owner is None else owner.base(index)
            if owner is not None and entry is not None and entry.x is not None:
                return FoundPrompt(result, index, (owner, entry))
        return FoundPrompt(result, index, None)

    @property
    def separate_base(self) -> bool:
        return self.base is not None and self.base[0] is not self.result

    def summary(self) -> PromptSummary:
        summary = self.result.summary(self.index)
        if self.base is not None and self.separate_base:
            owner, entry = self.base
            return replace(summary, base=scored_candidate(FOREIGN_BASE, entry, owner.total(entry), kept=True))
        return summary if self.base is not None else replace(summary, base=None)

    def entry(self, place: int) -> Entry:
        """The entry at a place of the summary."""
        if place == FOREIGN_BASE and self.base is not None:
            return self.base[1]
        return self.result.searches[self.index].finals[place]

    def decoded(self, entries: Sequence[Entry], one_by_one: bool) -> dict[int, Item]:
        """Images or videos by id() of their entry."""
        found: dict[int, Item] = {}
        separate = self.base[1] if self.base is not None and self.separate_base else None
        own = list({id(e): e for e in entries if e is not separate}.values())
        found |= dict(zip(map(id, own), _decoded(self.result, own, one_by_one), strict=True))
        if self.base is not None and separate is not None:
            found[id(separate)] = self.base[0].media([separate])[0]
        return found


def _diversity(
    result: SearchOutcome, prompt: int, made: Mapping[int, Item], most: int
) -> dict[str, Any] | None:
    """Of so many of the best candidates of a prompt, as far as their images are made. made: by id() of their entry."""
    best = list(takewhile(lambda e: id(e) in made, result.ranking(prompt)[:most]))
    pixels = pixels_of([made[id(e)] for e in best])
    found = None if pixels is None else diversity_of(pixels, result.searches[prompt].roles)
    return None if found is None else found.as_dict()


def _decoded(result: SearchOutcome, entries: Sequence[Entry], one_by_one: bool) -> list[Item]:
    """Images or videos of entries. one_by_one: videos may be too large to be decoded together."""
    parts = [[e] for e in entries] if one_by_one else [entries] if entries else []
    return [item for part in parts for item in result.media(part)]


def write_run_files(
    folder: OutputFolder,
    about: RunDescription,
    result: SearchOutcome,
    seconds: float,
    images: Sequence[Item] | None = None,
    plain: SearchOutcome | None = None,
) -> dict[str, Any]:
    """Write everything and return what run.json holds. seconds: wall clock of the search.

    images: those of the best of all prompts, where the pipeline has returned them; None decodes them here. plain: the
    pipeline alone, for prompts whose search did not finish the pipeline's own candidate.
    """
    chosen = [
        [e for e in result.ranking(i)[: about.request.get("images", 1)] if e.x is not None]
        for i in range(len(result.prompts))
    ]
    # Decoded together, as the pipeline returns them: in other batches the last bit of a pixel may differ.
    left = list(
        _decoded(result, [e for some in chosen for e in some], about.large_items)
        if images is None
        else images
    )
    names = FileNames(about.request, result.prompts)
    prompts, rows = [], []
    for i, ranked in enumerate(chosen):
        found = FoundPrompt.of(result, plain, i)
        summary = found.summary()
        shown = summary.to_show(RUNNERS_UP_OF_LARGE if about.large_items else RUNNERS_UP)
        wanted = [found.entry(c.place) for c in shown]
        decoded = found.decoded(wanted, about.large_items)
        best, left = left[: len(ranked)], left[len(ranked) :]
        base = None if found.base is None else decoded[id(found.base[1])]
        made = {id(e): item for e, item in zip(ranked, best, strict=True)} | decoded
        pairs = list(zip(best, ranked, strict=True))
        prompts.append(_write_prompt(folder, about, found, pairs, base, names))
        most = max(len(ranked), (RUNNERS_UP_OF_LARGE if about.large_items else RUNNERS_UP) + 1)
        prompts[-1]["diversity"] = _diversity(result, i, made, most)
        rows.append(sheet_row(summary, shown, [decoded[id(e)] for e in wanted]))
    record = _record(about, result, seconds, plain) | {
        "prompts": prompts,
        "contact_sheets": write_sheets(folder, rows, _title(about, result, prompts)),
    }
    folder.write_json("run.json", record)
    return record


def _write_prompt(
    folder: OutputFolder,
    about: RunDescription,
    found: FoundPrompt,
    best: Sequence[tuple[Item, Entry]],
    base: Item | None,
    names_of: FileNames,
) -> dict[str, Any]:
    """The files of one prompt, and what run.json says of it."""
    summary, request = prompt_record(found), dict(about.request)
    again = {"genscale": __version__, "versions": versions(), "request": request, **summary}
    if about.missing:
        again["missing"] = about.missing
    files = [
        image_files.write_item(folder, name, item, request, again | _shows(name, entry), about.scheduler)
        for n, (item, entry) in enumerate(best, 1)
        for name in (names_of(found.index, "best", n),)
    ]
    summary["files"] = {"best": [name for names in files for name in names]}
    summary["pictures"] = {names[0]: e.candidate.id for names, (_, e) in zip(files, best, strict=True)}
    if found.base is not None and base is not None:
        name = names_of(found.index, "base")
        again |= _shows(name, found.base[1]) | {"is_base": True}
        names = image_files.write_item(folder, name, base, request, again, about.scheduler)
        summary["files"]["base"] = names
        if not found.separate_base:  # that of the pipeline alone is not among the search's candidates
            summary["pictures"].setdefault(names[0], found.base[1].candidate.id)
    return summary


def entry_dict(result: SearchOutcome, entry: Entry | None) -> dict[str, Any] | None:
    """A candidate with its scores in each role."""
    if entry is None:
        return None
    finals = result.searches[entry.prompt].finals
    told = result.searches[entry.prompt].ranks.told(finals)
    scores, select = next((t for e, t in zip(finals, told, strict=True) if e is entry), ({}, {}))
    broken = result.broken(entry)
    return {
        "candidate": entry.candidate.id,
        "origin": entry.candidate.origin,
        "parent": entry.candidate.parent,
        "total": result.total(entry),
        "search": scores,
        "select": select,
        "held_out": dict(entry.held_out),
        "nfe": entry.nfe,
        "seconds": round(entry.seconds, 3),
        **({"broken": list(broken)} if broken else {}),
        **({"noise": dict(entry.candidate.measured)} if entry.candidate.measured else {}),
    }


def _shows(name: str, entry: Entry) -> dict[str, Any]:
    """What one image shows, for `genscale replay`: its file, and the recipe of its candidate."""
    return {"file": f"{name}.png", "shows": recipe(entry.candidate)}


def versions() -> dict[str, str]:
    """Versions of genscale, Python and the libraries on which the pixels of an image depend."""
    found = {"genscale": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def prompt_record(found: FoundPrompt) -> dict[str, Any]:
    """What run.json says of one prompt, without its files."""
    result, i = found.result, found.index
    search, ranking, population = result.searches[i], result.ranking(i), result.population(i)
    weighted = {} if population is None else {"population": population.as_dict()}
    accepted = result.accepted(i)
    return {
        "prompt": result.prompts[i],
        "index": i,
        "best": entry_dict(result, ranking[0]) if ranking else None,
        "base": None if found.base is None else entry_dict(*found.base),
        "finished": len(ranking),
        "dropped": [failure.as_dict() for failure in result.dropped(i)],
        "nfe": search.spent,
        "verifier_calls": search.calls,
        "stopped_by": None if search.stopped is None else asdict(search.stopped),
        "kl_of_best": result.kl(i),
        **({} if accepted is None else {"accepted": accepted}),
        **selection_record(result.summary(i)),
        "curve": result.curve(i),
        **weighted,
        **({} if result.drafts is None else {"drafts": _drafts(result.drafts, i)}),
    }


def selection_record(summary: PromptSummary) -> dict[str, Any]:
    """What the rules of the choice did, where they did anything, and of several scores the Pareto front."""
    front = {"pareto": [c.id for c in summary.pareto()]} if len(summary.objectives) > 1 else {}
    rules = {"abstained": summary.abstained, "margin": summary.margin} if summary.margin is not None else {}
    return {**rules, **({"notes": list(summary.notes)} if summary.notes else {}), **front}


def _drafts(drafts: SearchOutcome, prompt: int) -> dict[str, Any]:
    """What run.json says of the drafts of a prompt: their cost, and their totals by candidate, best first."""
    ranking, search = drafts.ranking(prompt), drafts.searches[prompt]
    totals = search.totals(ranking)
    scored = [[e.candidate.id, total] for e, total in zip(ranking, totals, strict=True)]
    return {"finished": len(ranking), "nfe": search.spent, "verifier_calls": search.calls, "totals": scored}


def _record(
    about: RunDescription, result: SearchOutcome, seconds: float, plain: SearchOutcome | None
) -> dict[str, Any]:
    request, one = about.request, len(result.prompts) == 1
    first = prompt_record(FoundPrompt.of(result, plain, 0)) if one else {}
    stop, budget = request.get("stop"), str(result.budget)
    return {
        "genscale": __version__,
        **{name: first[name] for name in ("prompt", "best", "base") if one},
        "seed": request.get("seed"),
        "model": request["model"],
        "sampler": dict(about.sampler),
        "verifiers": {
            "search": request.get("verifiers", []),
            "select": request.get("select", []),
            "held_out": request.get("held_out", []),
        },
        "ensemble": request.get("ensemble", "weighted"),
        "budget": None if budget == "none" else budget,
        "pool": result.pooled,
        "stop": None if stop is None else str(Stop.parse(stop)),
        "stopped": result.stopped,
        "request": dict(request),
        "versions": versions(),
        "wall_seconds": round(seconds, 3),
        "ledger": result.ledger.as_dict(),
        **({} if plain is None else {"ledger_of_base": plain.ledger.as_dict()}),
        **({"missing": about.missing} if about.missing else {}),
    }


def _title(about: RunDescription, result: SearchOutcome, prompts: Sequence[Mapping[str, Any]]) -> str:
    spent = [s.spent for s in result.searches]
    cost = f"{sum(spent)} NFE shared" if result.pooled else f"{max(spent, default=0)} NFE a prompt"
    parts = (short_model_name(about.request["model"]), about.request["sampler"], cost)
    told = (f"genscale {__version__}", *parts, f"seed {about.request.get('seed')}", vendi_title(prompts))
    return " · ".join(filter(None, told))


def write_sheets(folder: OutputFolder, rows: Sequence[SheetRow], title: str) -> list[str]:
    """Contact sheets of ROWS prompts each; their names."""
    rows = [row for row in rows if row.tiles]
    names = []
    for page, start in enumerate(range(0, len(rows), ROWS), 1):
        image = contact_sheet.sheet(rows[start : start + ROWS], title)
        name = "contact.png" if page == 1 else f"contact-{page}.png"
        folder.write(name, partial(image.save, format="PNG"))
        names.append(name)
    return names
