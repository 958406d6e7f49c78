"""What the demo's page shows of a search, as HTML. Everything that came from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from genscale.demo import jobs
from genscale.demo.equivalent_command import command
from genscale.demo.jobs import Job
from genscale.demo.live_view import CandidateRow, Seen
from genscale.runs.request import from_dict

FILES = "/search"  # where images and files are fetched from
CLIPS = (".mp4", ".webm")

EMPTY = '<div class="gs-empty">{}</div>'  # a place that nothing is in yet


def link(job: Job, name: str) -> str:
    return f"{FILES}/{job.token}/{name}"


def number(value: float) -> str:
    """With as many decimals as tell scores apart, the same for all of a size."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    size = abs(value)
    return f"{value:.4f}" if 1e-3 <= size < 10 else f"{value:.2f}" if 10 <= size < 1e4 else f"{value:.3g}"


# ---------------------------------------------------------------- where it is


def status(job: Job | None, ahead: int = 0) -> str:
    """One line, a bar and remarks."""
    if job is None:
        return _bar("Ready", "Say what to draw, then press Search.", 0.0, "idle")
    watch, stage = job.watch, job.stage
    spent = f"{watch.nfe} of {watch.planned} NFE" if watch.planned else f"{watch.nfe} NFE"
    share = watch.nfe / watch.planned if watch.planned else 0.0
    if stage == jobs.WAITING:
        line = "searches are" if ahead != 1 else "search is"
        return _bar("Waiting", f"{ahead} {line} before yours; one runs at a time.", 0.0, "busy")
    if stage == jobs.LOADING:
        return _bar("Loading the model", "The first search with a model takes longer.", 0.0, "busy")
    if stage == jobs.SEARCHING:
        word = "Stopping" if job.halting else "Searching"
        return _bar(word, f"{spent} · {job.seconds:.0f} s", share, "busy", watch.notes)
    if stage == jobs.WRITING:
        return _bar("Writing the results", spent, 1.0, "busy", watch.notes)
    if stage == jobs.REFUSED:
        return _bar("Not done", job.sentence, 0.0, "bad", watch.notes)
    if stage == jobs.STOPPED:
        return _bar(
            "Stopped", f"this is the best after {spent} · {job.seconds:.1f} s", share, "good", watch.notes
        )
    return _bar("Done", f"{watch.nfe} NFE · {job.seconds:.1f} s", 1.0, "good", watch.notes)


def refused(sentence: str) -> str:
    """A form that did not become a search."""
    return _bar("Not done", sentence, 0.0, "bad")


def _bar(word: str, text: str, share: float, kind: str, notes: Iterable[str] = ()) -> str:
    remarks = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return (
        f'<div class="gs-status gs-{kind}" role="status"><div><strong>{escape(word)}</strong> '
        f"<span>{escape(text)}</span></div>"
        f'<div class="gs-bar"><i style="width:{100 * min(share, 1.0):.1f}%"></i></div>'
        + (f'<ul class="gs-notes">{remarks}</ul>' if remarks else "")
        + "</div>"
    )


# ---------------------------------------------------------------- base beside best


def pair(job: Job | None, index: int) -> str:
    """The pipeline's own image beside the best so far; at the end the files themselves, videos as videos."""
    if job is None:
        return EMPTY.format(
            "Left what the model gives by itself, right the best that the search found.",
        )
    seen = job.watch.shown(index)
    told = _told(job, index)
    base = (told or {}).get("base") or _as_told(seen.base)
    best = (told or {}).get("best") or _as_told(seen.best)
    if told is None and base is None and best is None:
        return EMPTY.format("They appear when the first candidate is finished.")
    left = _figure(job, "Base", "the model by itself", _shown(job, told, "base", seen.base), base, None)
    title = "Best" if job.over else "Best so far"
    right = _figure(job, title, "what the search found", _shown(job, told, "best", seen.best), best, base)
    return f'<div class="gs-pair">{left}{right}</div>'


def _told(job: Job, index: int) -> dict[str, Any] | None:
    """What the record says of a prompt, once there is one."""
    prompts = (job.record or {}).get("prompts", [])
    return prompts[index] if index < len(prompts) else None


def _as_told(row: CandidateRow | None) -> dict[str, Any] | None:
    return None if row is None else {"total": row.total, "search": row.scores, "held_out": row.held_out}


def _shown(job: Job, told: Mapping[str, Any] | None, name: str, row: CandidateRow | None) -> str:
    """The image or clip of one side."""
    files = [f for f in ((told or {}).get("files", {}).get(name) or []) if f in job.files]
    clip = next((f for f in files if f.endswith(CLIPS)), None)
    if clip is not None:
        return f'<video src="{link(job, clip)}" autoplay loop muted playsinline controls></video>'
    moving = next((f for f in files if f.endswith(("-clip.png", ".gif"))), None)
    file = moving or next(iter(files), None)
    source = link(job, file) if file else "" if row is None else link(job, f"{row.picture}.tile")
    if not source:
        missing = "not made before the stop" if job.phase == jobs.STOPPED else "not finished yet"
        return f'<div class="gs-none">{missing}</div>'
    return f'<a href="{source}" target="_blank"><img src="{source}" alt="{name}"></a>'


def _figure(
    job: Job,
    title: str,
    note: str,
    picture: str,
    told: Mapping[str, Any] | None,
    base: Mapping[str, Any] | None,
) -> str:
    lines = "".join(
        _score(n, v, (base or {}).get("search", {}).get(n)) for n, v in (told or {}).get("search", {}).items()
    )
    lines += "".join(
        _score(n, v, (base or {}).get("held_out", {}).get(n), held_out=True)
        for n, v in (told or {}).get("held_out", {}).items()
    )
    return (
        f'<figure class="gs-{title.split()[0].lower()}"><figcaption><strong>{title}</strong><span>{note}</span>'
        f"</figcaption>{picture}<dl>{lines}</dl></figure>"
    )


def _score(name: str, value: float, before: float | None, held_out: bool = False) -> str:
    gain = "" if before is None else f" <em>{_gain(value - before)}</em>"
    apart = " <small>held out</small>" if held_out else ""
    kind = ' class="gs-held"' if held_out else ""
    return f"<div{kind}><dt>{escape(name)}{apart}</dt><dd>{number(value)}{gain}</dd></div>"


def _gain(value: float) -> str:
    return "±0" if value == 0 else f"{value:+.3g}"


# ---------------------------------------------------------------- the population


def gallery(job: Job | None, index: int) -> str:
    if job is None:
        return EMPTY.format("All candidates appear here while they form, best first.")
    seen = job.watch.shown(index)
    if not seen.tiles:
        word = "No candidate was finished." if job.over else "The first candidates are on their way."
        return EMPTY.format(word)
    there = job.watch.pictures
    tiles = "".join(_tile(job, row, n) for n, row in enumerate(seen.tiles, 1) if row.picture in there)
    shown, more = len(seen.finals[: len(seen.tiles)]), seen.finished
    count = f"{more} finished" + (f", the best {shown} shown" if shown < more else "")
    if seen.previews:
        count += f"; {len(seen.previews)} on the way"
    return f'<p class="gs-count">{count}</p><div class="gs-tiles">{tiles}</div>'


def _tile(job: Job, row: CandidateRow, place: int) -> str:
    source = link(job, f"{row.picture}.tile")
    words = [f"{n} {number(v)}" for n, v in row.scores.items()]
    words += [f"{n} {number(v)} (held out)" for n, v in row.held_out.items()]
    if row.final:
        mark, kind = ("base" if row.own else ""), "gs-top" if place == 1 else ""
        label = f"{place}."
    else:
        mark, kind, label = "", "gs-preview", f"step {row.step}"
    badge = f"<b>{mark}</b>" if mark else ""
    title = escape(f"candidate {row.id}: {', '.join(words)}")
    return (
        f'<a class="gs-tile {kind}" href="{source}" target="_blank" title="{title}">{badge}'
        f'<img src="{source}" alt="{title}"><span>{label}</span><span>{number(row.total)}</span></a>'
    )


# ---------------------------------------------------------------- scores


def table(job: Job | None, index: int) -> str:
    seen = Seen() if job is None else job.watch.shown(index)
    if not seen.finals:
        return EMPTY.format("A line for each finished candidate.")
    names, held = list(seen.finals[0].scores), _held(seen)
    several = len(names) > 1
    heads = [
        "",
        "candidate",
        *map(escape, names),
        *(["total"] if several else []),
        *(f"{escape(n)}<br><small>held out</small>" for n in held),
    ]
    lines = []
    for n, row in enumerate(seen.finals, 1):
        cells = [str(n), f"#{row.id}" + (" base" if row.own else "")]
        cells += [number(row.scores[name]) for name in names]
        cells += [number(row.total)] if several else []
        cells += [number(row.held_out[name]) if name in row.held_out else "" for name in held]
        lines.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in (*cells, str(row.nfe))) + "</tr>")
    head = "".join(f"<th>{h}</th>" for h in (*heads, "after NFE"))
    return (
        f'<div class="gs-table" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _held(seen: Seen) -> list[str]:
    return list(dict.fromkeys(name for row in seen.finals for name in row.held_out))


def curve(job: Job | None, number: int) -> str:
    """number: which drawing it is, 0 before the first."""
    if job is None or number == 0:
        return EMPTY.format("What the search scores and what is held out from it, as it goes.")
    return _paper(link(job, f"curve-{number}.live"), "score against NFE")


def _paper(source: str, what: str) -> str:
    """A drawing, on white; long ones scroll."""
    picture = f'<a href="{source}" target="_blank"><img src="{source}" alt="{what}"></a>'
    return f'<div class="gs-paper" tabindex="0">{picture}</div>'


# ---------------------------------------------------------------- what is left at the end


def lineage(job: Job | None, index: int) -> str:
    name = _of(job, index, "tree.png")
    if job is None or name is None:
        return EMPTY.format("Who came from whom: drawn when the search is over.")
    return _paper(link(job, name), "lineage")


def downloads(job: Job | None, index: int) -> str:
    if job is None or not job.over or not job.record:
        return EMPTY.format("The best image with its origin inside, the record, and everything.")
    told = _told(job, index) or {}
    best = [f for f in told.get("files", {}).get("best", []) if f in job.files]
    found = [(name, _WHAT.get(name.rpartition(".")[2], name)) for name in best]
    found += [("run.json", "Record")] if "run.json" in job.files else []
    found += [("contact.png", "Contact sheet")] if "contact.png" in job.files else []
    links = "".join(
        f'<a href="{link(job, name)}" download="{name}"><strong>{word}</strong><span>{name}</span></a>'
        for name, word in (*found, ("run.zip", "Everything"))
    )
    return f'<div class="gs-links">{links}</div>'


_WHAT = {"png": "Best image", "mp4": "Best clip", "gif": "Best clip", "webm": "Best clip"}


def _of(job: Job | None, index: int, name: str) -> str | None:
    """A file of one prompt, by the name that it has where there is only one."""
    if job is None:
        return None
    one = name if len(job.request.prompts) == 1 else f"{index:03d}-{name}"
    return one if one in job.files else None


def same(job: Job | None) -> str:
    """The command that does the same search, to its end."""
    if job is None or not job.record:
        return ""
    return command(from_dict(job.record["request"], "run.json"), "runs/again")


def plan(found: Any, nfe: int, prompts: int) -> str:
    """What a search will cost. found: its plan, None while the device is busy."""
    if found is None:
        most = f"at most <strong>{nfe * prompts} NFE</strong>"
        return f'<p class="gs-plan">{most}; more is known when the device is free.</p>'
    spent = "at most " if found.nfe is None else ""
    whole = (nfe if found.nfe is None else found.nfe) * found.prompts
    each = f"{found.nfe_per_candidate} NFE a candidate of {found.steps} steps"
    several = f" for {found.prompts} prompts" if found.prompts > 1 else ""
    count = (
        f", {found.candidates} finished{' a prompt' if found.prompts > 1 else ''}" if found.candidates else ""
    )
    return f'<p class="gs-plan">{spent}<strong>{whole} NFE</strong>{several}: {each}{count}.</p>'
