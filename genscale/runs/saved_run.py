"""What a run left in its folder, finished or killed: its finished candidates, their scores and their latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genscale.engine import archive
from genscale.engine.archive import candidate_of
from genscale.engine.verifier_roles import ENSEMBLES
from genscale.errors import UsageError
from genscale.plugins import registry
from genscale.protocol.interfaces import SamplerHooks
from genscale.protocol.particles import OWN, Candidate
from genscale.runs import generate, prepare, verifier_specs
from genscale.runs import request as requests
from genscale.runs.call_arguments import arguments
from genscale.runs.request import Request

if TYPE_CHECKING:
    from genscale.media import Media


@dataclass(frozen=True)
class Final:
    """One finished candidate. total: the number that picked; file: its latents, None where they were not kept."""

    prompt: int
    candidate: Candidate
    total: float
    scores: dict[str, float]
    select: dict[str, float]
    held_out: dict[str, float]
    nfe: int
    file: Path | None

    @property
    def is_base(self) -> bool:
        return self.candidate.id == OWN

    def latents(self) -> Tensor:
        from safetensors.torch import load_file

        assert self.file is not None
        latents: Tensor = load_file(self.file)["x"][0]
        return latents


@dataclass(frozen=True)
class SavedRun:
    """A folder's request, completed, and the finished candidates of each prompt, in the order they were scored."""

    folder: Path
    request: Request
    finals: tuple[tuple[Final, ...], ...]

    def ranking(self, prompt: int) -> list[Final]:
        return sorted(self.finals[prompt], key=lambda f: -f.total)  # stable: among equals the first

    def base(self, prompt: int) -> Final | None:
        return next((f for f in self.finals[prompt] if f.is_base), None)


def read(folder: Path) -> SavedRun:
    """UsageError where the folder holds no run, or none of its candidates is finished."""
    folder = folder.expanduser()
    request = prepare.completed(requests.load_folder(folder))
    try:
        records = archive.read(folder)[1:]
        finals = tuple(_finals(folder, i, records, request) for i in range(len(request.prompts)))
    except (KeyError, TypeError, AttributeError, OSError):
        raise UsageError(f"the archive in '{folder}' cannot be read: it was changed by hand.") from None
    if not any(finals):
        raise UsageError(
            f"the run in '{folder}' has no finished candidate yet: go on with genscale resume {folder}."
        )
    return SavedRun(folder, request, finals)


def _finals(folder: Path, i: int, records: Sequence[dict[str, Any]], request: Request) -> tuple[Final, ...]:
    files = {}  # of one id in two plans of a run that went on, the later is in force
    for r in records:
        if r["prompt"] == i and r["kind"] == "solve":
            files[r["candidate"], r["step"]] = (candidate_of(r), folder / r["file"])
    found: dict[int, Final] = {}
    for r in records:
        if r["prompt"] != i or r["kind"] != "score" or not r["final"]:
            continue
        candidate = candidate_of(r)
        solved, file = files.get((candidate.id, r["step"]), (None, None))
        there = solved == candidate and file is not None and file.is_file()
        found.pop(candidate.id, None)
        found[candidate.id] = Final(
            i,
            candidate,
            r["total"] or 0.0,
            r["scores"],
            r["select"],
            r["held_out"],
            r["nfe"],
            file if there else None,
        )
    return _with_totals(_apart(list(found.values()), request), request)


def _apart(finals: list[Final], request: Request) -> list[Final]:
    """Where finished candidates are independent draws, each has cost its share: a wave is scored as one."""
    sampler = registry.make("sampler", request.sampler, dict(request.sampler_fields))
    if not finals or not SamplerHooks.of(sampler).independent:
        return finals
    whole = finals[-1].nfe
    return [replace(f, nfe=round(whole * n / len(finals))) for n, f in enumerate(finals, 1)]


def _with_totals(finals: Sequence[Final], request: Request) -> tuple[Final, ...]:
    """The numbers that pick, as the search had them; ranks are told of the whole pool."""
    if not finals or (request.ensemble != "rank" and not finals[0].select):
        return tuple(finals)
    weights = verifier_specs.weights(request.select or request.verifiers)
    names = list(finals[0].select or finals[0].scores)
    raw = torch.tensor([[(f.select or f.scores)[n] for n in names] for f in finals], dtype=torch.float64)
    each = torch.tensor([weights.get(n, 1.0) for n in names], dtype=torch.float64)
    totals = ENSEMBLES[request.ensemble](raw.reshape(len(finals), len(names)), each).tolist()
    return tuple(replace(f, total=t) for f, t in zip(finals, totals, strict=True))


Show = Callable[[Sequence[Final]], "Media"]


def shower(kept: SavedRun) -> Show:
    """Load the run's pipeline; a function that decodes finished candidates whose latents were kept."""
    from genscale.pipelines.decode import latent_decoder

    pipe, parts = generate.pipe_alone(kept.request)
    call = arguments(pipe, replace(kept.request, images=1), parts.pictures)
    decode = latent_decoder(pipe, **call)

    def show(finals: Sequence[Final]) -> Media:
        return decode(torch.stack([f.latents() for f in finals]), [f.prompt for f in finals])

    return show
