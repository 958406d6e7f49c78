"""What the demo's page shows of a search as HTML. All text that comes from clients is escaped.

Videos are shown here as well: gr.ImageSlider has images only, and gr.Video transcodes by way of Gradio's file cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from genscale.demo import jobs
from genscale.demo.equivalent_command import command
from genscale.demo.jobs import Job
from genscale.demo.live_view import CandidateRow, Watch
from genscale.demo.number_format import gain, number
from genscale.runs.read_request import from_dict

FILES = "/search"  # where images and files are fetched from
VIDEOS = (".mp4", ".webm")

EMPTY = '<div class="gs-empty">{}</div>'  # where there is nothing to show yet


def link(job: Job, name: str) -> str:
    return f"{FILES}/{job.token}/{name}"


# ---------------------------------------------------------------- status line


def status(job: Job | None, ahead: int = 0) -> str:
    """One line, a bar, and notes. ahead: how many searches run or wait before this one."""
    if job is None:
        return _bar("Ready", "Describe an image, then press Search.", 0.0, "idle")
    watch, stage = job.watch, job.stage
    share = watch.nfe / watch.planned if watch.planned else 0.0
    if stage == jobs.WAITING:
        if not ahead:
            return _bar("Starting", "", 0.0, "busy")
        searches = "searches are" if ahead != 1 else "search is"
        return _bar("Waiting", f"{ahead} {searches} before yours; one runs at a time.", 0.0, "busy")
    if stage == jobs.LOADING:
        return _bar("Loading the model", "The first search with a model takes longer.", 0.0, "busy")
    if stage == jobs.SEARCHING:
        word = "Stopping" if job.halting else "Searching"
        text = f"{_spent(watch)} · {job.seconds:.0f} s{_time_left(watch)}"
        return _bar(word, text, share, "busy", watch.notes)
    if stage == jobs.WRITING:
        return _bar("Writing the results", _spent(watch), 1.0, "busy", watch.notes)
    if stage == jobs.REFUSED:
        return _bar("Not done", job.sentence, 0.0, "bad", watch.notes)
    if stage == jobs.STOPPED:
        text = f"this is the best after {_spent(watch)} · {job.seconds:.1f} s"
        return _bar("Stopped", text, share, "good", watch.notes)
    return _bar("Done", f"{watch.nfe} NFE · {job.seconds:.1f} s", 1.0, "good", watch.notes)


def _spent(watch: Watch) -> str:
    return f"{watch.nfe} of {watch.planned} NFE" if watch.planned else f"{watch.nfe} NFE"


def _time_left(watch: Watch) -> str:
    left = watch.seconds_left
    if left is None:
        return ""
    return f" · about {left:.0f} s left" if left < 90 else f" · about {left / 60:.0f} min left"


def refused(sentence: str) -> str:
    """The status after a rejected form."""
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
    """Base beside best so far, with scores; at the end from the files of the run, so that videos play."""
    if job is None:
        return EMPTY.format(
            "Left: the image that the model gives without a search. Right: the best that the search found.",
        )
    seen = job.watch.shown(index)
    record = prompt_record(job, index)
    base = (record or {}).get("base") or _as_record(seen.base)
    best = (record or {}).get("best") or _as_record(seen.best)
    if record is None and base is None and best is None:
        return EMPTY.format("Base and best appear when the first candidate is finished.")
    left = _figure(job, "Base", "the model by itself", _shown(job, record, "base", seen.base), base, None)
    title = "Best" if job.over else "Best so far"
    right = _figure(job, title, "what the search found", _shown(job, record, "best", seen.best), best, base)
    return f'<div class="gs-pair">{left}{right}</div>'


def slider_note(job: Job | None, index: int) -> str:
    video = job is not None and job.request.clips
    text = "The slider shows images only: videos play side by side." if video else "Left: base. Right: best."
    return f'<p class="gs-note">{text}</p>'


def prompt_record(job: Job, index: int) -> dict[str, Any] | None:
    """What run.json says of one prompt; None while the search runs."""
    prompts = (job.record or {}).get("prompts", [])
    return prompts[index] if index < len(prompts) else None


def _as_record(row: CandidateRow | None) -> dict[str, Any] | None:
    return None if row is None else {"total": row.total, "search": row.scores, "held_out": row.held_out}


def _shown(job: Job, record: Mapping[str, Any] | None, name: str, row: CandidateRow | None) -> str:
    """The image or video of one side."""
    files = [f for f in ((record or {}).get("files", {}).get(name) or []) if f in job.files]
    video = next((f for f in files if f.endswith(VIDEOS)), None)
    if video is not None:
        return f'<video src="{link(job, video)}" autoplay loop muted playsinline controls></video>'
    animated = next((f for f in files if f.endswith(".gif")), None)
    file = animated or next(iter(files), None)
    source = link(job, file) if file else "" if row is None else link(job, f"{row.image}.tile")
    if not source:
        missing = "not made before the stop" if job.phase == jobs.STOPPED else "not finished yet"
        return f'<div class="gs-none">{missing}</div>'
    return f'<a href="{source}" target="_blank"><img src="{source}" alt="{name}"></a>'


def _figure(
    job: Job,
    title: str,
    note: str,
    image: str,
    record: Mapping[str, Any] | None,
    base: Mapping[str, Any] | None,
) -> str:
    lines = "".join(
        _score(n, v, (base or {}).get("search", {}).get(n))
        for n, v in (record or {}).get("search", {}).items()
    )
    lines += "".join(
        _score(n, v, (base or {}).get("held_out", {}).get(n), held_out=True)
        for n, v in (record or {}).get("held_out", {}).items()
    )
    return (
        f'<figure class="gs-{title.split()[0].lower()}"><figcaption><strong>{title}</strong><span>{note}</span>'
        f"</figcaption>{image}<dl>{lines}</dl></figure>"
    )


def _score(name: str, value: float, before: float | None, held_out: bool = False) -> str:
    change = "" if before is None else f" <em>{gain(value - before)}</em>"
    apart = " <small>held out</small>" if held_out else ""
    kind = ' class="gs-held"' if held_out else ""
    return f"<div{kind}><dt>{escape(name)}{apart}</dt><dd>{number(value)}{change}</dd></div>"


# ---------------------------------------------------------------- the population


def count(job: Job | None, index: int) -> str:
    """The line above the gallery: how many candidates there are."""
    if job is None:
        return _note("All candidates appear here, best first.")
    seen, watch = job.watch.shown(index), job.watch
    if not seen.tiles:
        if job.over:
            return _note("No candidate was finished.")
        if job.stage != jobs.SEARCHING:
            return _note("No image is decoded yet.")
        return _note(f"No image is decoded yet: {_spent(watch)}{_time_left(watch)}.")
    if not seen.finals and not seen.previews:
        return _note(
            f"Nothing is scored yet: {_spent(watch)}{_time_left(watch)}. {len(seen.tiles)} under way, as the model "
            "expects them to become after so many of their steps (coarse)."
        )
    shown = len(seen.finals[: len(seen.tiles)])
    text = f"{seen.finished} finished" + (f", the best {shown} shown" if shown < seen.finished else "")
    if seen.previews:
        text += f"; {len(seen.previews)} previews (≈) of step {seen.previews[0].step}"
    return _note(text)


def _note(text: str) -> str:
    return f'<p class="gs-count">{escape(text)}</p>'


def held_out_names(rows: Iterable[CandidateRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.held_out))


# ---------------------------------------------------------------- drawings


def curve(job: Job | None, number: int) -> str:
    """number: counts the drawings, so that each has its own address; 0 before the first."""
    if job is None or number == 0:
        return EMPTY.format("The best score so far, and the held-out score of that candidate.")
    return _paper(link(job, f"curve-{number}.live"), "score against NFE")


def _paper(source: str, what: str) -> str:
    """A drawing on white; tall ones scroll."""
    image = f'<a href="{source}" target="_blank"><img src="{source}" alt="{what}"></a>'
    return f'<div class="gs-paper" tabindex="0">{image}</div>'


# ---------------------------------------------------------------- at the end


def lineage(job: Job | None, index: int) -> str:
    name = _of(job, index, "tree.png")
    if job is None or name is None:
        return EMPTY.format("Which candidate was made from which: drawn when the search is over.")
    return _paper(link(job, name), "lineage")


def downloads(job: Job | None) -> str:
    """The text shown instead of the buttons before the search ends."""
    if job is not None and job.over and job.record:
        return ""
    return EMPTY.format("The best image with its settings inside, the record, and everything as one file.")


def _of(job: Job | None, index: int, name: str) -> str | None:
    """A file of one prompt. name: its name in a run of one prompt."""
    if job is None:
        return None
    one = name if len(job.request.prompts) == 1 else f"{index:03d}-{name}"
    return one if one in job.files else None


def same(job: Job | None) -> str:
    """The command line that runs the same search to its end."""
    if job is None or not job.record:
        return ""
    return command(from_dict(job.record["request"], "run.json"), "runs/again")


def plan(found: Any, nfe: int, prompts: int) -> str:
    """What a search will cost. found: its Plan, None while the device is busy."""
    if found is None:
        most = f"at most <strong>{nfe * prompts} NFE</strong>"
        return f'<p class="gs-plan">{most}; the exact cost is known when the device is free.</p>'
    spent = "at most " if found.nfe is None else ""
    whole = (nfe if found.nfe is None else found.nfe) * found.prompts
    each = f"{found.nfe_per_candidate} NFE a candidate of {found.steps} steps"
    several = f" for {found.prompts} prompts" if found.prompts > 1 else ""
    count = (
        f", {found.candidates} finished{' a prompt' if found.prompts > 1 else ''}" if found.candidates else ""
    )
    return f'<p class="gs-plan">{spent}<strong>{whole} NFE</strong>{several}: {each}{count}.</p>'
