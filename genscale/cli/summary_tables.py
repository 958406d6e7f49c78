"""What is printed after a run, or before it: scores, cost, files."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genscale.engine.ensembles import VOTE, WEIGHTED
from genscale.engine.failures import summary
from genscale.report.prompt_summary import VOTES

LINES = 20  # prompts listed; all of them are in run.json


def print_record(record: dict[str, Any], console: Console) -> None:
    """Base and best scores of each prompt, what the run cost, and its files."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("prompt", "score", "base", "best"):
        table.add_column(title, justify="right" if title in ("base", "best") else "left")
    for found in record["prompts"][:LINES]:
        for n, (name, base, best) in enumerate(score_rows(found, record.get("ensemble", WEIGHTED))):
            table.add_row(Text(found["prompt"] if n == 0 else ""), Text(name), base, Text(best, style="bold"))
    console.print(table)
    if len(record["prompts"]) > LINES:
        console.print(f"... {len(record['prompts']) - LINES} more in run.json", style="dim")
    ledger = record["ledger"]
    console.print(
        f"{ledger['evaluations']} NFE, {record['wall_seconds']:.1f} s, seed {record['seed']}",
        style="dim",
        highlight=False,
    )
    if told := diversity(record["prompts"]):
        console.print(told, style="dim", highlight=False)
    if told := _drafted(record["prompts"]):
        console.print(told, style="dim", highlight=False)
    if record.get("pool"):
        span = _span([found["nfe"] for found in record["prompts"]])
        console.print(f"shared by the prompts: {span} NFE each", style="dim", highlight=False)
    if ended := _stops(record["prompts"]):
        console.print(ended, style="dim", highlight=False, soft_wrap=True)
    if told := _accepted(record["prompts"]):
        console.print(told, highlight=False, soft_wrap=True)
    print_notes(record["prompts"], console)
    print_dropped([failure for found in record["prompts"] for failure in found["dropped"]], console)
    if record["stopped"]:
        console.print(f"{record['stopped']}: this is the best so far.", markup=False, highlight=False)
    names = ", ".join(
        [*files(record["prompts"]), *record["contact_sheets"], "run.json", *record.get("layouts", ())]
    )
    console.print(f"{record['folder']}: {names}", markup=False, highlight=False, soft_wrap=True)


def print_dropped(failures: Sequence[Mapping[str, Any]], console: Console) -> None:
    """How many candidates were dropped, and why; nothing if there are none."""
    if failures:
        count = "1 candidate" if len(failures) == 1 else f"{len(failures)} candidates"
        console.print(f"{count} dropped: {summary(failures)}", markup=False, highlight=False, soft_wrap=True)


def files(prompts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The files of all prompts in short: "best.png", or "000-best.png to 011-best.png" of several prompts."""
    found = []
    for role in ("best", "base"):
        lists = [p["files"].get(role, []) for p in prompts]
        for place in range(max(map(len, lists), default=0)):
            names = [some[place] for some in lists if len(some) > place]
            found.append(names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}")
    return found


def print_plan(plan: dict[str, Any], console: Console) -> None:
    # A stop rule or a target may end a search earlier, by scores that are not known yet.
    most = (
        "at most "
        if plan["stop"] or any(limit in (plan["budget"] or "") for limit in ("target", "p="))
        else ""
    )
    unknown = "until --stop or the budget ends it" if plan["stop"] else "until the budget ends"
    drafts = unknown if plan["drafts"] is None else plan["drafts"]
    rows = {
        "model": plan["model"],
        "sampler": " ".join(f"{v}" if k == "name" else f"{k}={v}" for k, v in plan["sampler"].items()),
        "verifiers": ", ".join(plan["verifiers"]["search"]),
        "budget": (plan["budget"] or "none") + (" (pool)" if plan["pool"] else ""),
        **({"stop": plan["stop"]} if plan["stop"] else {}),
        "prompts": plan["prompts"],
        "steps": plan["steps"],
        "NFE a candidate": plan["nfe_per_candidate"],
        **(
            {"draft": plan["draft"], "drafts": drafts, "NFE a draft": plan["nfe_per_draft"]}
            if plan["draft"]
            else {}
        ),
        "NFE a prompt, mean" if plan["pool"] else "NFE a prompt": unknown
        if plan["nfe_per_prompt"] is None
        else f"{most}{plan['nfe_per_prompt']}",
        **({"of these the base": f"up to {plan['nfe_of_base']}"} if plan["nfe_of_base"] else {}),
        "NFE in all": unknown if plan["nfe"] is None else f"{most}{plan['nfe']}",
        "latents held": unknown
        if plan["bytes_held"] is None
        else f"up to {plan['bytes_held'] / 2**20:.2f} MB",
    }
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(str(value)))
    console.print(table)


def print_replay(found: dict[str, Any], console: Console) -> None:
    """Whether the content is the same, how it was made again, and its file."""
    how = {
        "candidate": "its candidate alone was made again",
        "search": "the whole search was run again",
    }[found["how"]]
    if found.get("frames"):
        verdict = f"{'the same' if found['same'] else 'other'} pixels, of {found['frames']} frames"
    elif found["same"]:
        count = "" if found["of"] is None else f" ({found['of']} of {found['of']})"
        verdict = f"the same {found['unit']}{count}"
    elif found["largest"] is None:
        verdict = f"other {found['unit']}" if found["of"] is None else "another size"
    else:
        most = f"{found['largest']} of 255" if found["unit"] == "pixels" else f"{found['largest']:.3g}"
        verdict = f"{found['differing']} of {found['of']} {found['unit']} differ, by at most {most}"
    console.print(f"{verdict}: {how}, {found['nfe']} NFE", markup=False, highlight=False, soft_wrap=True)
    if not found["same"] and found["other_versions"]:
        names = ", ".join(f"{k} {a} (here {b})" for k, (a, b) in found["other_versions"].items())
        console.print(f"it was made with {names}", markup=False, highlight=False, soft_wrap=True)
    console.print(found["replay"], markup=False, highlight=False, soft_wrap=True)


def _stops(prompts: list[dict[str, Any]]) -> str:
    """How many searches a stop rule ended, and after how many candidates."""
    ended = [p for p in prompts if p["stopped_by"]]
    if not ended:
        return ""
    rules = ", ".join(dict.fromkeys(p["stopped_by"]["rule"] for p in ended))
    after, finished = _span([p["stopped_by"]["after"] for p in ended]), _span([p["finished"] for p in ended])
    which = "" if len(prompts) == 1 else f" {len(ended)} of {len(prompts)} prompts"
    rest = "" if after == finished else f", {finished} with those in flight"
    return f"{rules} stopped{which} after {after} candidates{rest}"


def diversity(prompts: Sequence[Mapping[str, Any]]) -> str:
    """How different the best candidates of a prompt are; "" where it was not measured."""
    known = [p["diversity"] for p in prompts if p.get("diversity")]
    if not known:
        return ""
    of, by = _span([d["of"] for d in known]), known[0]["by"]
    vendi, distance = (statistics.fmean(d[name] for d in known) for name in ("vendi", "distance"))
    which = "" if len(known) == 1 else f", mean of {len(known)} prompts"
    return f"diversity of the {of} best: Vendi {vendi:.2f}, mean distance {distance:.3f}, by {by}{which}"


def _drafted(prompts: list[dict[str, Any]]) -> str:
    """How many drafts were made, and how many of them in full."""
    made = [p for p in prompts if p.get("drafts")]
    if not made:
        return ""
    drafts, nfe = (_span([p["drafts"][name] for p in made]) for name in ("finished", "nfe"))
    each = "" if len(prompts) == 1 else " a prompt"
    return f"{drafts} drafts{each} ({nfe} NFE), of which {_span([p['finished'] for p in made])} made in full"


def _accepted(prompts: list[dict[str, Any]]) -> str:
    """On how many prompts nothing was good enough, for samplers that accept a candidate."""
    judged = [p["accepted"] for p in prompts if p.get("accepted")]
    missed = [found for found in judged if found["candidate"] is None]
    if not missed:
        return ""
    least = missed[0]["least"]
    which = "" if len(judged) == 1 else f" on {len(missed)} of {len(judged)} prompts"
    return f"nothing was accepted{which}: no candidate reached {least:.3g}, and this is the best of them"


def _span(numbers: list[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"


def score_rows(
    told: Mapping[str, Any], ensemble: str, nothing: str = "nothing finished"
) -> list[tuple[str, str, str]]:
    """(name, base, best) for the score of every verifier. told: with "best" and "base". Under a vote the numbers of
    votes in place of those of the answers."""
    best, base = told["best"] or {}, told["base"] or {}
    if ensemble == VOTE:
        best, base = _with_votes(best), _with_votes(base)
    rows = []
    for role, note in (("search", ""), ("select", " (select)"), ("held_out", " (held out)")):
        for name, value in best.get(role, {}).items():
            before = base.get(role, {}).get(name)
            rows.append((name + note, "" if before is None else f"{before:.4g}", f"{value:.4g}"))
    return rows or [(nothing, "", "")]


def _with_votes(told: dict[str, Any]) -> dict[str, Any]:
    """A candidate of a vote: its votes in place of the number of its answer."""
    return {**told, "search": {VOTES: told["total"]}} if told else told


def print_notes(prompts: Sequence[Mapping[str, Any]], console: Console) -> None:
    """What the rules of the choice did: a sentence each, with the number of prompts where there are several."""
    notes = Counter(note for found in prompts for note in found.get("notes", ()))
    for note, count in notes.items():
        where = "" if len(prompts) == 1 else f" ({count} of {len(prompts)} prompts)"
        console.print(note + where, markup=False, highlight=False, soft_wrap=True)
