"""The entries of `genscale compare`: one request for each sampler, verifier or budget, otherwise the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from genscale.call_syntax import parse_call
from genscale.engine.budget import Budget
from genscale.engine.ensembles import Column, pointwise
from genscale.errors import UsageError
from genscale.plugins import options
from genscale.runs import verifier_specs
from genscale.runs.complete_request import NONE, completed
from genscale.runs.read_request import from_dict
from genscale.runs.request import Request
from genscale.storage.typed_json import FileName

SAMPLER, VERIFIER, BUDGET = "sampler", "verifier", "budget"


class EntryRecord(TypedDict):
    """An entry as compare.json has it."""

    name: str
    folder: FileName
    request: dict[str, Any]


@dataclass(frozen=True)
class ComparedRun:
    """One entry. folder: the name of its run's folder, inside that of the comparison."""

    name: str
    folder: str
    request: Request

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "folder": self.folder, "request": self.request.as_dict()}

    @staticmethod
    def from_record(data: EntryRecord, source: str) -> ComparedRun:
        return ComparedRun(data["name"], data["folder"], from_dict(data["request"], source))


def entries(
    request: Request, samplers: Sequence[str], verifiers: Sequence[str], budgets: Sequence[str]
) -> tuple[str, list[ComparedRun]]:
    """(what is compared, its entries). A sampler is NAME or NAME(OPTION=VALUE, ...), verifiers that steer together are
    joined by +. UsageError unless exactly one of the three is given several times."""
    given = {SAMPLER: samplers, VERIFIER: verifiers, BUDGET: budgets}
    several = [axis for axis, values in given.items() if len(values) > 1]
    if len(several) != 1:
        raise UsageError(
            "compare one thing at a time: give --sampler several times, or --verifiers, or --budgets"
            + (f" (not {' and '.join(several)} at once)." if several else ".")
        )
    if not pointwise(request.ensemble, [Column()]):
        raise UsageError(
            f"totals of ensemble '{request.ensemble}' depend on the run's own candidates and do not compare with "
            "another run's: use the weighted ensemble."
        )
    for axis, values in given.items():
        if axis != several[0] and values:
            request = _with(request, axis, values[0])
    found = [completed(_with(request, several[0], value)) for value in given[several[0]]]
    check(several[0], found)
    names = [" ".join(value.split()) for value in given[several[0]]]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"'{twice}' is given twice: there would be nothing to compare.")
    return several[0], [ComparedRun(n, f, r) for n, f, r in zip(names, _folders(names), found, strict=True)]


def _with(request: Request, axis: str, value: str) -> Request:
    if axis == VERIFIER:
        return replace(request, verifiers=tuple(part.strip() for part in re.split(r"\+(?![^()]*\))", value)))
    if axis == BUDGET:
        return replace(request, budget=value)
    call = parse_call(value)
    if call is None:
        raise UsageError(f"sampler '{value}' cannot be read: write NAME or 'NAME(OPTION=VALUE, ...)'.")
    return replace(request, sampler=call.name, sampler_fields=options.pairs(call.settings()))


def check(axis: str, requests: Sequence[Request]) -> None:
    """UsageError where the runs are not at equal NFE, or their scores could not be compared."""
    for request in requests:
        budget = Budget.of(request.budget)
        if request.budget is not None and budget.nfe is None and budget.images is None:
            raise UsageError(
                f"a comparison is at equal NFE: budget '{request.budget}' sets none, give one such as 480nfe or "
                "16images."
            )
    if axis != VERIFIER:
        return
    judges = [verifier_specs.unweighted(name) for r in requests for name in r.held_out if r.held_out != NONE]
    if not judges:
        raise UsageError(
            "scores of two verifiers do not compare: give one that is held out from all of them with --held-out."
        )
    steering = {verifier_specs.unweighted(name) for r in requests for name in (*r.verifiers, *r.select)}
    if set(judges) <= steering:
        raise UsageError(
            f"'{judges[0]}' steers one of the entries: give one that is held out from all of them with --held-out."
        )


def _folders(names: Sequence[str]) -> list[str]:
    """Distinct names that every file system allows."""
    found: list[str] = []
    for name in names:
        stem = re.sub(r"[^\w.]+", "-", name).strip("-.")[:60] or "entry"
        taken, n = stem, 2
        while taken.lower() in [f.lower() for f in found]:
            taken, n = f"{stem}-{n}", n + 1
        found.append(taken)
    return found
