"""What genscale's own verifiers say of a benchmark, by category: of the model alone, of what was found, the gain.

The unit is a prompt: the scores of its samples are averaged first, since they are not independent of each other. These
are not the numbers of the benchmark, which its own scorer gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, TypedDict

from genscale.numerics.intervals import Mean

ALL = "all prompts"
ROLES = ("search", "select", "held_out")

Scores = Mapping[str, Mapping[str, float]]


class ResultLine(TypedDict):
    """A sample. base, best: scores by role and verifier; None where nothing was found."""

    index: int
    prompt: str
    categories: list[str]
    sample: int
    seed: int
    nfe: int
    base: Scores | None
    best: Scores | None


def summarised(lines: Sequence[ResultLine]) -> dict[str, Any]:
    """`categories`: rows of all prompts, of each category in order of appearance, and, with two categories or more, the
    plain mean of the categories' means, as GenEval reports it."""
    names = list(dict.fromkeys(name for line in lines for name in line["categories"]))
    rows = [_row(ALL, lines)]
    rows += [_row(name, [line for line in lines if name in line["categories"]]) for name in names]
    found: dict[str, Any] = {"categories": rows}
    if len(names) > 1:
        found["mean_of_categories"] = _mean_of_means(rows[1:])
    return found


def _row(name: str, lines: Sequence[ResultLine]) -> dict[str, Any]:
    scores = []
    for role in ROLES:
        judges = dict.fromkeys(j for line in lines for j in (line["best"] or {}).get(role, {}))
        for judge in judges:
            base, best = (_by_prompt(lines, which, role, judge) for which in ("base", "best"))
            both = [index for index in best if index in base]
            gain = Mean.of_gains([best[i] for i in both], [base[i] for i in both])
            scores.append(
                {
                    "verifier": judge,
                    "role": role,
                    "base": asdict(Mean.of(list(base.values()))),
                    "searched": asdict(Mean.of(list(best.values()))),
                    "gain": asdict(gain),
                }
            )
    return {"category": name, "prompts": len({line["index"] for line in lines}), "scores": scores}


def _by_prompt(lines: Iterable[ResultLine], which: str, role: str, judge: str) -> dict[int, float]:
    """The mean over the samples of each prompt."""
    each: dict[int, list[float]] = {}
    for line in lines:
        told: Scores | None = line[which]  # type: ignore[literal-required]
        value = (told or {}).get(role, {}).get(judge)
        if value is not None:
            each.setdefault(line["index"], []).append(value)
    return {index: fmean(values) for index, values in each.items()}


def _mean_of_means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for score in rows[0]["scores"]:
        key = (score["role"], score["verifier"])
        same = [s for row in rows for s in row["scores"] if (s["role"], s["verifier"]) == key]
        means = {
            part: [s[part]["mean"] for s in same if s[part]["mean"] is not None]
            for part in ("base", "searched")
        }
        found.append(
            {
                "verifier": score["verifier"],
                "role": score["role"],
                **{part: fmean(values) if values else None for part, values in means.items()},
            }
        )
    return found
