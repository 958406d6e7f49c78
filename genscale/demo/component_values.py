"""What Gradio's gallery, slider, table and download buttons show of a search, as the JSON that they take.

Gradio's own way to give a component an image is a path or a PIL image: it copies the file into a cache in the temporary
folder, where it stays, and serves it at /gradio_api/file=PATH, which gives out any file of the cache to everybody who
can name it. `routes.Gate` therefore blocks that address. The components get addresses of this demo's own route instead
(`html.link`), with the token of the search in them. The values have no "path" and no "meta"; without them Gradio does
not take a value for a file and copies nothing, and the event listeners say `postprocess=False`. (A subclass of the
component could do the same, but Gradio writes a .pyi file beside the source of every subclass.)
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from genscale.demo.html import VIDEOS, held_out_names, link, prompt_record
from genscale.demo.jobs import Job
from genscale.demo.labels import FILE as LABELS
from genscale.demo.live_view import CandidateRow, Tile, UnderWay
from genscale.demo.number_format import number, short

BEST_FILES = 4  # at most so many files of the best candidate have a button
DOWNLOADS = BEST_FILES + 4  # and the record, the contact sheet, the labels, everything
LARGE, SMALL = ".full", ".tile"  # endings of the addresses of a candidate's image

_WORDS = {"png": "Best image", "mp4": "Best video", "gif": "Best video", "webm": "Best video"}


def file(job: Job, name: str) -> dict[str, Any]:
    return {"url": link(job, name), "orig_name": name}


# ---------------------------------------------------------------- the population


def gallery(job: Job | None, index: int, large: str | None = None) -> list[dict[str, Any]]:
    """Small images, best first, previews last. large: the key of the one to show in full size."""
    if job is None:
        return []
    return [
        {
            "image": file(job, row.image + (LARGE if row.image == large else SMALL)),
            "caption": _caption(
                row, place, None if isinstance(row, UnderWay) else job.labels.of(index, row.id)
            ),
        }
        for place, row in enumerate(gallery_rows(job, index), 1)
    ]


def gallery_rows(job: Job, index: int) -> list[Tile]:
    return [row for row in job.watch.shown(index).tiles if row.image in job.watch.images]


def image_key(address: Any) -> str:
    """The key of a candidate's image from the address that the page sends back; it may hold anything."""
    name = str(address).rpartition("/")[2]
    return name.removesuffix(SMALL).removesuffix(LARGE)


def _caption(row: Tile, place: int, right: bool | None) -> str:
    if isinstance(row, UnderWay):
        return f"{row.done}/{row.steps}"
    start = "≈" if not row.final else "base" if row.own else f"{place}."
    label = "" if right is None or not row.final else " ✓" if right else " ✗"
    return f"{start} {number(row.total)}{label}"


def label_buttons(job: Job | None, key: str | None) -> list[dict[str, Any]]:
    """Updates of the two buttons that label the open image: they work where it is of a finished candidate."""
    where = None if job is None or key is None else job.finished(key)
    given = None if job is None or where is None else job.labels.of(*where)
    works = where is not None
    return [
        gr.update(interactive=works, variant="primary" if given is right else "secondary")
        for right in (True, False)
    ]


# ---------------------------------------------------------------- base against best


def slider(job: Job | None, index: int) -> list[dict[str, Any]] | None:
    """[base, best]; None before both are there, and for videos, which the slider cannot play."""
    if job is None or job.request.clips:
        return None
    seen, record = job.watch.shown(index), prompt_record(job, index) or {}
    found = [_side(job, record, name, row) for name, row in (("base", seen.base), ("best", seen.best))]
    return [side for side in found if side] if all(found) else None


def _side(job: Job, record: dict[str, Any], name: str, row: CandidateRow | None) -> dict[str, Any] | None:
    files = [f for f in record.get("files", {}).get(name) or [] if f in job.files and not f.endswith(VIDEOS)]
    if files:
        return file(job, files[0])
    return file(job, row.image + LARGE) if row is not None and row.image in job.watch.images else None


# ---------------------------------------------------------------- scores


def table(job: Job | None, index: int) -> dict[str, Any]:
    """A row for each finished candidate, best first; numbers, so that columns can be sorted."""
    rows = () if job is None else job.watch.shown(index).finals
    if not rows:
        return {"headers": ["place", "candidate", "score", "after NFE"], "data": [], "metadata": None}
    names, held_out = list(rows[0].scores), held_out_names(rows)
    several = len(names) > 1
    headers = ["place", "candidate", *names, *(["total"] if several else [])]
    headers += [f"{name} (held out)" for name in held_out]
    data = [
        [
            place,
            f"#{row.id}" + (" base" if row.own else ""),
            *(short(row.scores[name]) for name in names),
            *([short(row.total)] if several else []),
            *(short(row.held_out[name]) if name in row.held_out else None for name in held_out),
            row.nfe,
        ]
        for place, row in enumerate(rows, 1)
    ]
    return {"headers": [*headers, "after NFE"], "data": data, "metadata": None}


# ---------------------------------------------------------------- downloads


def downloads(job: Job | None, index: int) -> list[tuple[str, dict[str, Any]] | None]:
    """(label, file) of each of the DOWNLOADS buttons, None for one that is not needed."""
    if job is None or not job.over or not job.record:
        return [None] * DOWNLOADS
    record = prompt_record(job, index) or {}
    best = [name for name in record.get("files", {}).get("best", []) if name in job.files][:BEST_FILES]
    found: list[tuple[str, dict[str, Any]] | None] = [(_label(name, best), file(job, name)) for name in best]
    found += [None] * (BEST_FILES - len(best))
    for name, label in (("run.json", "Record"), ("contact.png", "Contact sheet"), (LABELS, "Labels")):
        found.append((label, file(job, name)) if name in job.files else None)
    return [*found, ("All files (zip)", file(job, "run.zip"))]


def _label(name: str, files: list[str]) -> str:
    """With the file's name where there are several."""
    word = _WORDS.get(name.rpartition(".")[2], "Best")
    return word if len(files) == 1 else f"{word} ({name})"
