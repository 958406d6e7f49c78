"""The candidates of a run as a forest of parents and children, read from the archive in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genscale.engine import archive
from genscale.errors import UsageError
from genscale.runs.read_request import load_folder
from genscale.runs.run_record import read_record


@dataclass(eq=False)
class Line:
    """One candidate.

    start: the step at which it leaves its parent. end: the last step that is recorded of it. total: the score of the
    finished sample, None where it was not finished. preview: the last score of its clean estimate. below: sum and count
    of the scores of it and its descendants. image: a file that shows it, where there is one.
    """

    id: int
    origin: str = "prior"
    parent: int | None = None
    start: int = 0
    end: int = 0
    total: float | None = None
    preview: float | None = None
    children: list[Line] = field(default_factory=list)
    below: tuple[float, int] = (0.0, 0)
    image: Path | None = None

    def lines(self) -> Iterator[Line]:
        """It and all its descendants, parents first; children that leave later come first."""
        waiting = [self]
        while waiting:
            line = waiting.pop()
            yield line
            waiting += sorted(line.children, key=lambda c: (c.start, -c.id))

    def values(self) -> list[tuple[int, float | None]]:
        """(step, mean score of the samples finished below it), at its start and wherever a child leaves it."""
        total, count = (0.0, 0) if self.total is None else (self.total, 1)
        found: dict[int, float | None] = {}
        for child in sorted(self.children, key=lambda c: -c.start):
            total, count = total + child.below[0], count + child.below[1]
            found[max(child.start, self.start)] = total / count if count else None
        found[self.start] = total / count if count else None
        return sorted(found.items())


@dataclass(frozen=True)
class Lineage:
    """All candidates of one prompt. best: the one that won, with its ancestors."""

    index: int
    prompt: str
    roots: tuple[Line, ...]
    steps: int
    best: tuple[int, ...]

    def lines(self) -> list[Line]:
        return [line for root in self.roots for line in root.lines()]


def families(folder: Path) -> list[Lineage]:
    """The candidates of every prompt of a run, finished or not. UsageError where the folder holds none."""
    asked = load_folder(folder)
    try:
        records = archive.read_archive(folder)[1:]
        told = {p["index"]: p for p in (read_record(folder) or {}).get("prompts", ())}
        found = [
            _family(folder, i, prompt, [r for r in records if r["prompt"] == i], told.get(i, {}))
            for i, prompt in enumerate(asked.prompts)
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the archive in '{folder}' cannot be read: it was changed by hand.") from None
    if not any(f.roots for f in found):
        raise UsageError(f"the run in '{folder}' has no candidate yet: go on with genscale resume {folder}.")
    return [f for f in found if f.roots]


def _family(
    folder: Path, index: int, prompt: str, records: list[dict[str, Any]], summary: dict[str, Any]
) -> Lineage:
    lines: dict[int, Line] = {}
    for record in records:  # where a run went on with another plan, the later record of an id counts
        i = record["candidate"]
        recipe = (record["origin"], record["parent"], record["start"])
        line = lines.get(i)
        if line is None or (line.origin, line.parent, line.start) != recipe:
            line = lines[i] = Line(i, *recipe, record["start"])
        line.end = max(line.end, record["step"])
        if record["kind"] == "score":
            if record["final"]:
                line.total = _total(record)
            else:
                line.preview = _total(record)
    for line in list(lines.values()):  # ancestors without a record of their own
        if line.parent is not None and line.parent not in lines:
            lines[line.parent] = Line(line.parent)
    roots = []
    for line in sorted(lines.values(), key=lambda c: c.id):
        if line.parent is None:
            roots.append(line)
        else:
            parent = lines[line.parent]
            parent.children.append(line)
            parent.end = max(parent.end, line.start)
    for line in reversed([line for root in roots for line in root.lines()]):
        total, count = (0.0, 0) if line.total is None else (line.total, 1)
        below = [(total, count), *(c.below for c in line.children)]
        line.below = (sum(t for t, _ in below), sum(n for _, n in below))
    for i, file in _images(folder, summary).items():
        if i in lines and lines[i].total is not None:
            lines[i].image = file
    steps = max((r["step"] for r in records), default=0)
    return Lineage(index, prompt, tuple(roots), steps, _ancestry(lines, _winner(lines, summary)))


def _total(record: dict[str, Any]) -> float:
    """The number that steered; under an ensemble that has none for a single candidate, the first score; 0 where there
    are only embeddings."""
    total, embedded = record["total"], record.get("vectors", {})
    scores = (score for name, score in record["scores"].items() if name not in embedded)
    return float(next(scores, 0.0) if total is None else total)


def _winner(lines: dict[int, Line], summary: dict[str, Any]) -> int | None:
    """The winner of the record; before there is one, the best so far."""
    told = (summary.get("best") or {}).get("candidate")
    if told in lines:
        return int(told)
    finished = [line for line in lines.values() if line.total is not None]
    return max(finished, key=lambda c: c.total or 0.0).id if finished else None


def _ancestry(lines: dict[int, Line], i: int | None) -> tuple[int, ...]:
    found: list[int] = []
    while i is not None and i in lines and i not in found:
        found.append(i)
        i = lines[i].parent
    return tuple(found)


def _images(folder: Path, summary: dict[str, Any]) -> dict[int, Path]:
    """The files that show a candidate, of those that are still there."""
    named = summary.get("pictures", {})
    return {i: folder / name for name, i in named.items() if (folder / name).is_file()}
