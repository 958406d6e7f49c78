"""What benchmarks/results/ holds of each sampler, in one form: the ground of the pages in docs/methods/.

A label such as "rollover (VP SDE)" begins with the sampler's name. Every row is compared with best_of_n at the same
budget on the same prompts of the same file; in files that hold best_of_n alone, with N = 1.
"""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.shapes import interval

RESULTS = Path(__file__).parent / "results"
# Benchmarks that hold searched and held-out scores, one file a model. A page draws the first that has its sampler.
STEMS = ("particles", "trees", "noise-gradients", "guidance_gradients", "shapes")
LAW = ("posterior-mixture", "posterior-digits")
PLAIN = "best_of_n"
OLDER = " (cut turn)"  # ends the labels of rows of older code (docs/gradients.md)


@dataclass(frozen=True)
class Row:
    """A search at a budget. nfe: spent. searched, judge: one a prompt. rival: best_of_n, or N = 1, if any."""

    label: str
    budget: int
    nfe: float
    searched: list[float]
    judge: list[float]
    rival: Row | None = None

    @property
    def sampler(self) -> str:
        return sampler_of(self.label)

    def gains(self, what: str) -> tuple[float, float] | None:
        """The mean paired gain over the rival with its 95 % interval."""
        if self.rival is None:
            return None
        mine, its = getattr(self, what), getattr(self.rival, what)
        return interval([a - b for a, b in zip(mine, its, strict=True)])


@dataclass(frozen=True)
class Table:
    """One result file, read for one sampler. rows: its own and the rivals', in the file's order by budget."""

    file: str
    model: str
    prompts: int
    steps: str
    guidance: str
    rows: list[Row]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.prompts} prompts, {self.steps} steps, guidance {float(self.guidance):g}"

    @property
    def over(self) -> str:
        """What gains are over."""
        return "N = 1" if all(r.sampler == PLAIN for r in self.rows) else PLAIN


def sampler_of(label: str) -> str:
    found = re.match(r"\w+", label)
    name = found[0] if found else label
    return PLAIN if name == "base" or re.fullmatch(r"best_of_\d+", name) else name


def tables(sampler: str) -> list[Table]:
    """Everything that was measured of searched and held-out scores."""
    found = []
    for stem in STEMS:
        if sampler == PLAIN and stem != "shapes":
            continue  # it is the other line of all the others
        for path in sorted(RESULTS.glob(f"{stem}*.json"), key=lambda p: "diffusion" in p.name):
            table = _read(path, sampler)
            if table.rows:
                found.append(table)
    return [*found, _clips()] if sampler == PLAIN else found


def drawn(sampler: str) -> list[Table]:
    """Those that its figure shows: of the first benchmark that has it, since others have other prompts."""
    found = tables(sampler)
    if sampler == PLAIN:
        return found
    first = [stem for stem in STEMS if any(t.file.startswith(stem) for t in found)][:1]
    return [t for t in found for stem in first if t.file.startswith(stem)]


def _read(path: Path, sampler: str) -> Table:
    report = json.loads(path.read_text())
    rivals: dict[float, Row] = {}
    rows: list[Row] = []
    raw = report["rows"]
    for r in raw:
        if sampler_of(r["search"]) == PLAIN:
            rivals[r["nfe"]] = _row(r)
    base = min(rivals.values(), key=lambda r: r.budget)
    for nfe in sorted({r["nfe"] for r in raw}):
        mine = [r for r in raw if r["nfe"] == nfe and sampler_of(r["search"]) == sampler]
        if sampler == PLAIN:
            rows += [_row(r, base if rivals[nfe] is not base else None) for r in mine]
        elif mine and nfe in rivals:
            rows += [rivals[nfe], *(_row(r, rivals[nfe]) for r in mine)]
    options = report["options"]
    return Table(
        path.name, options["model"], len(report["prompts"]), options["steps"], options["guidance"], rows
    )


def _row(r: dict[str, Any], rival: Row | None = None) -> Row:
    """The benchmarks' own names for the same things."""
    spent = r["spent"]
    return Row(
        r["search"],
        r["nfe"],
        statistics.fmean(spent) if isinstance(spent, list) else float(spent),
        r["clip"] if "clip" in r else r["score"],
        r["correct"] if "correct" in r else r["judge"],
        rival,
    )


def _clips() -> Table:
    """best_of_n on the bundled toy video model (benchmarks/video.py)."""
    report = json.loads((RESULTS / "video.json").read_text())
    each, rows = report["nfe_per_candidate"], list[Row]()
    for n, r in report["rows"].items():
        first = rows[0] if rows else None
        label = "base" if n == "1" else f"best_of_{n}"
        nfe = each * int(n)
        rows.append(Row(label, nfe, float(nfe), r["searched"], r["correct"], first))
    options = report["options"]
    return Table(
        "video.json", "shapes-video", len(report["prompts"]), options["steps"], options["guidance"], rows
    )


# ---------------------------------------------------------------- the tilted law


def law(sampler: str) -> list[dict[str, Any]]:
    """The tasks of benchmarks/posterior.py with the rows of this sampler; empty where it is not among them."""
    tasks = [t for f in LAW for t in json.loads((RESULTS / f"{f}.json").read_text())["tasks"]]
    held = [t for t in tasks if any(sampler_of(r["search"]) == sampler for r in t["rows"])]
    return [] if sampler == PLAIN else held


def correctors() -> dict[str, Any]:
    """What benchmarks/correctors.py found."""
    found: dict[str, Any] = json.loads((RESULTS / "correctors.json").read_text())
    return found
