"""What a run left in its folder, finished or killed: its finished candidates, their scores and their latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genscale.engine import archive
from genscale.engine.embeddings import from_text, remember
from genscale.engine.ensembles import name_of_total
from genscale.engine.failures import Failure
from genscale.engine.recipes import candidate_of
from genscale.engine.tensor_files import load_tensors
from genscale.errors import UsageError
from genscale.numerics.selection_order import selection_order
from genscale.plugins import registry
from genscale.protocol.interfaces import SamplerHooks
from genscale.protocol.particles import OWN, Candidate
from genscale.report.prompt_summary import PromptSummary, ScoredCandidate
from genscale.results.search_outcome import scored_candidate
from genscale.runs import read_request
from genscale.runs.complete_request import completed
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.request import Request
from genscale.runs.run_record import read_record
from genscale.runs.saved_totals import SavedTotals
from genscale.runs.trusted_code import refuse_code
from genscale.storage.media_store import STORED, MediaStore

if TYPE_CHECKING:
    from genscale.media import Media


@dataclass(frozen=True)
class Final:
    """One finished candidate. total: the number that ranks; file: its latents, None where they were not kept.

    digest: of the content of that file, where the archive has it. broken: the requirements that it breaks.
    vectors: embeddings by verifier.
    """

    prompt: int
    candidate: Candidate
    total: float
    scores: dict[str, float]
    select: dict[str, float]
    held_out: dict[str, float]
    nfe: int
    seconds: float
    file: Path | None
    digest: str | None = None
    broken: tuple[str, ...] = ()
    vectors: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_base(self) -> bool:
        return self.candidate.id == OWN

    def latents(self) -> Tensor:
        """[*latent]. UsageError: the file was damaged."""
        assert self.file is not None
        return load_tensors(self.file, self.digest, ("x",))["x"][0]


@dataclass(frozen=True)
class SavedRun:
    """A folder's request, completed, and the finished candidates of each prompt, in the order they were scored.

    heading: the first record of the archive. record: run.json; None where the run is not finished. dropped: for each
    prompt the candidates that failed, as of `Failure.as_dict`.
    """

    folder: Path
    request: Request
    finals: tuple[tuple[Final, ...], ...]
    heading: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None
    dropped: tuple[tuple[Mapping[str, Any], ...], ...] = ()

    @property
    def searched(self) -> str:
        """The score that ranks, by its verifiers."""
        return name_of_total(self.request.ensemble, self.request.select or self.request.verifiers)

    @property
    def missing(self) -> Mapping[str, Sequence[str]]:
        """What its request could not hold, by what it is needed for ("call", "search")."""
        found: Mapping[str, Sequence[str]] = (self.record or {}).get("missing", {})
        return found

    def ranking(self, prompt: int) -> list[Final]:
        """Best first, as the search ranked them."""
        finals = self.finals[prompt]
        own = next((i for i, f in enumerate(finals) if f.is_base), None)
        margin = self.totals.margin
        order = selection_order([f.total for f in finals], [len(f.broken) for f in finals], own, margin)
        return [finals[i] for i in order]

    @cached_property
    def totals(self) -> SavedTotals:
        """How the search ranked."""
        return SavedTotals.of(self.request, self.heading)

    def base(self, prompt: int) -> Final | None:
        return next((f for f in self.finals[prompt] if f.is_base), None)

    def summary(self, prompt: int) -> PromptSummary:
        """One prompt's candidates and scores as plain data."""
        finals = tuple(
            scored_candidate(n, f, f.total, f.file is not None, broken=f.broken)
            for n, f in enumerate(self.finals[prompt])
        )
        own = self.base(prompt)
        base = next((c for c, f in zip(finals, self.finals[prompt], strict=True) if f is own), None)
        record = self.prompt_record(prompt)
        base = base or ScoredCandidate.of_record(record.get("base"))  # the pipeline alone has made it
        best = finals[0] if finals else None
        spent = max([record.get("nfe", 0), *(c.nfe for c in finals)])
        held_out = () if best is None else tuple(best.held_out)
        return PromptSummary(
            self.request.prompts[prompt], self.searched, finals, base, held_out, spent, self.totals.margin,
            self.totals.objectives(self.request.prompts[prompt]),
            is_independent(self.request) and self.request.ensemble == "weighted",
        )  # fmt: skip

    def prompt_record(self, prompt: int) -> Mapping[str, Any]:
        """What run.json says of a prompt; empty where it says nothing."""
        prompts = (self.record or {}).get("prompts", ())
        return next((p for p in prompts if p["index"] == prompt), {})


def read_run(folder: Path, shares: bool = True) -> SavedRun:
    """UsageError where the folder holds no run, or none of its candidates is finished.

    shares: count independent candidates, which are scored together, as each having cost its share of their NFE.
    """
    folder = folder.expanduser()
    request, record = read_request.load_folder(folder), read_record(folder)
    request = request if (record or {}).get("missing") else completed(request)
    try:
        heading, *records = archive.read_archive(folder) or [{}]
        finals = [
            _finals(folder, [r for r in records if r["prompt"] == i], i) for i in range(len(request.prompts))
        ]
        if any(finals):
            totals = SavedTotals.of(request, heading)
            finals = [_with_totals(f, totals, text) for f, text in zip(finals, request.prompts, strict=True)]
        lost = [_dropped([r for r in records if r["prompt"] == i], some) for i, some in enumerate(finals)]
    except (KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the archive in '{folder}' cannot be read: it was changed by hand.") from None
    if not any(finals):
        raise UsageError(
            f"the run in '{folder}' has no finished candidate yet: go on with genscale resume {folder}."
        )
    if shares and is_independent(request):
        finals = [_with_shares(f) for f in finals]
    return SavedRun(folder, request, tuple(map(tuple, finals)), heading, record, tuple(lost))


def _dropped(records: Sequence[dict[str, Any]], finals: Sequence[Final]) -> tuple[Mapping[str, Any], ...]:
    finished = {final.candidate.id for final in finals}
    failures = [Failure.of_record(r) for r in records if r["kind"] == "failed"]
    return tuple(f.as_dict() for f in failures if f.candidate.id not in finished)


def _finals(folder: Path, records: Sequence[dict[str, Any]], prompt: int) -> list[Final]:
    files = {}  # where a run went on with another plan, the later record of an id counts
    for r in records:
        if r["kind"] in ("solve", "latents"):
            files[r["candidate"], r["step"]] = (candidate_of(r), folder / r["file"], r.get("digest"))
    found: dict[int, Final] = {}
    for r in records:
        if r["kind"] != "score" or not r["final"]:
            continue
        candidate = candidate_of(r)
        solved, file, digest = files.get((candidate.id, r["step"]), (None, None, None))
        there = solved == candidate and file is not None and file.is_file()
        found.pop(candidate.id, None)
        found[candidate.id] = Final(
            prompt,
            candidate,
            r["total"] or 0.0,
            r["scores"],
            r["select"],
            r["held_out"],
            r["nfe"],
            r["seconds"],
            file if there else None,
            digest,
            vectors=_vectors(r),
        )
    return list(found.values())


def _vectors(record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The embeddings of a candidate, for which its scores hold the numbers that stand for them."""
    vectors = from_text(record.get("vectors", {}))
    for name, vector in vectors.items():
        for scores in (record["scores"], record["select"]):
            if name in scores:
                remember(scores[name], vector)
    return vectors


def is_independent(request: Request) -> bool:
    """Whether its sampler's candidates are independent draws; unknown samplers' are not."""
    try:
        sampler = registry.make("sampler", request.sampler, dict(request.sampler_fields))
    except UsageError:
        return False
    return SamplerHooks.of(sampler).independent


def _with_shares(finals: list[Final]) -> list[Final]:
    whole = finals[-1].nfe if finals else 0
    return [replace(f, nfe=round(whole * n / len(finals))) for n, f in enumerate(finals, 1)]


def _with_totals(finals: list[Final], totals: SavedTotals, prompt: str) -> list[Final]:
    """With the totals that rank, as the search had them, and what each breaks."""
    found = totals.of_prompt(prompt, [(f.scores, f.select, f.total) for f in finals])
    return [
        replace(f, total=total, scores=scores, select=select, broken=broken)
        for f, (total, scores, select, broken) in zip(finals, found, strict=True)
    ]


Decode = Callable[[Sequence[Final]], "Media"]


def _from_store(folder: Path) -> Decode:
    """Its images and videos are in its folder, and nothing is needed to decode them."""
    from genscale.pipelines.generated_media import media_of

    store = MediaStore(folder)
    return lambda finals: media_of([store.get(f.latents()) for f in finals], "the run")


def decoder_of(run: SavedRun, pipe: Any = None, trust: bool = False) -> Decode:
    """A function that decodes finished candidates whose latents were kept. pipe: None loads that of the run.

    trust: run code that comes with the model of the run. UsageError: the folder does not say with which model or
    arguments they were made, or asks for such code without `trust`.
    """
    from genscale.pipelines.latent_decoder import latent_decoder

    if STORED in run.heading:
        return _from_store(run.folder)
    missing = [
        name for name in run.missing.get("call", ()) if pipe is None or not name.startswith("the model")
    ]
    if missing:
        raise UsageError(
            f"the run in '{run.folder}' cannot be decoded: it does not hold {' and '.join(missing)}."
        )
    if pipe is None:
        refuse_code(run.request, run.folder, trust, verifiers=False)
    prepared = PreparedRun.without_search(replace(run.request, images=1))
    prepared = prepared if pipe is None else prepared.with_pipe(pipe)
    decode = latent_decoder(prepared.pipe, **prepared.call())

    def decoded(finals: Sequence[Final]) -> Media:
        return decode(torch.stack([f.latents() for f in finals]), [f.prompt for f in finals])

    return decoded
