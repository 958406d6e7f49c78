"""The results of a run, written while it runs, so that a killed run resumes without repeating work.

One JSON line (journal.py) for each finished piece of work: a solve (the state of a candidate at a step), a prediction
or a gradient at a step, or a score. Tensors are in a safetensors file (tensor_files.py), which is on the disk before
its line is written. One process at a time writes into a folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genscale.engine.archive_writer import GIVEN, SEEN, ArchiveWriter, Pending, Rows
from genscale.engine.entries import Entry as Entry
from genscale.engine.failures import ArchivedFailures, Failure
from genscale.engine.finite_numbers import all_finite
from genscale.engine.headings import STATE, refuse_another
from genscale.engine.journal import Journal, read_records, writing
from genscale.engine.recipes import candidate_of as candidate_of
from genscale.engine.recipes import recipe as recipe
from genscale.engine.tensor_files import load_tensors
from genscale.errors import UsageError
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.particles import Candidate, Memory, Particles
from genscale.storage.durable_files import remove_partial_files
from genscale.storage.folder_lock import FolderLock

FILE = "archive.jsonl"

Predict = Callable[[Particles, Tensor, Tensor], Prediction]
"""(particles, the model's output, the latents that it saw) -> the estimates."""


class Archive:
    """The entries of a run; with a folder also on disk, so that the run can resume.

    heading: the request (prompts, model, sampler, seed, ...). Another is refused. before: seconds of the run so far.
    entries: all scores, in the order in which they were entered. earlier_seconds, earlier_evaluations: seconds and NFE
    of the run before it was resumed, up to its last record.
    """

    def __init__(
        self, folder: Path | None = None, heading: Mapping[str, Any] | None = None, before: float = 0.0
    ) -> None:
        self.entries: list[Entry] = []
        self.folder = folder
        self.earlier_seconds, self.earlier_evaluations = before, 0
        self._started = time.monotonic() - before
        self._solved: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._predicted: dict[tuple[int, int, int, str], dict[str, Any]] = {}
        self._graded: dict[tuple[int, int, int, str], dict[str, Any]] = {}
        self._scored: dict[tuple[int, int, int], Entry] = {}
        self._failed = ArchivedFailures()
        self._latents: set[tuple[int, int, int]] = set()
        self._writer: ArchiveWriter | None = None
        self._lock: FolderLock | None = None
        if folder is not None:
            self._open(folder, json.loads(json.dumps(dict(heading or {}))))

    def _open(self, folder: Path, heading: dict[str, Any]) -> None:
        path, latents = folder / FILE, folder / "latents"
        lock = FolderLock(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        self._lock = lock
        try:
            with writing(folder):
                if path.is_symlink() or latents.is_symlink():
                    raise UsageError(f"the archive in '{folder}' is a link: choose another folder.")
                records = read_records(path)
                if records:  # before anything is changed: it may be another run's
                    self._read(records, heading)
                latents.mkdir(exist_ok=True)
                remove_partial_files(latents)
                self._writer = ArchiveWriter(folder, Journal(path))
            if not records:
                self._write({"kind": "run", **heading})
                self.settle()
        except BaseException:
            self.close()
            raise

    def _read(self, lines: list[dict[str, Any]], heading: dict[str, Any]) -> None:
        refuse_another(self.folder, lines, heading)
        spent: dict[int, int] = {}
        for record in lines[1:]:
            if record["kind"] == STATE:
                continue
            where = (record["prompt"], record["candidate"], record["step"])
            self.earlier_seconds = max(self.earlier_seconds, record["seconds"])
            if record["kind"] == "solve":
                self._solved[where] = record
            elif record["kind"] == "latents":
                self._latents.add(where)
            elif record["kind"] == "predict":
                self._predicted[(*where, record.get("branch", ""))] = record
            elif record["kind"] == "gradient":
                spent[record["prompt"]] = max(spent.get(record["prompt"], 0), record["nfe"])
                self._graded[(*where, record["asked"])] = record
            elif record["kind"] == "failed":
                spent[record["prompt"]] = max(spent.get(record["prompt"], 0), record["nfe"])
                self._failed.read(record)
            else:
                spent[record["prompt"]] = max(spent.get(record["prompt"], 0), record["nfe"])
                self._scored[where] = Entry.of_record(record)
        self.earlier_evaluations = sum(spent.values())
        self._started = time.monotonic() - self.earlier_seconds

    @property
    def seconds(self) -> float:
        """Seconds since the run began; time between a kill and its resumption is not counted."""
        return time.monotonic() - self._started

    def solved(
        self, prompt: int, candidate: Candidate, step: int, device: torch.device | None = None
    ) -> Particles | None:
        """The stored result of a solve (one row); None if there is none."""
        record = self._solved.get((prompt, candidate.id, step))
        tensors = self._stored(record, candidate)
        if record is None or tensors is None:
            return None
        rows = {k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")}
        memory = None if record["memory"] is None else Memory(rows, record["memory"])
        found = Particles(tensors["x"], step, (candidate,), memory, tensors.get("x0"))
        return found if device is None else found.to(device)

    def add_solved(self, prompt: int, particles: Particles) -> None:
        """Store each row of solved particles, if there is a folder."""
        if self._writer is None:
            return
        tensors = {"x": particles.x}
        if particles.x0 is not None:
            tensors["x0"] = particles.x0
        if particles.memory is not None:
            tensors |= {f"memory.{k}": v for k, v in particles.memory.rows.items()}
        memory = None if particles.memory is None else dict(particles.memory.rest)
        self._save("solve", prompt, particles.candidates, particles.step, tensors, "", {"memory": memory})

    def add_latents(self, prompt: int, candidate: Candidate, step: int, x: Tensor) -> None:
        """Store clean latents [*latent], to be decoded later.

        They have no solver memory, so a resumed run does not continue from them but computes them again.
        """
        where = (prompt, candidate.id, step)
        if where not in self._solved and where not in self._latents:
            self._latents.add(where)
            self._save("latents", prompt, (candidate,), step, {"x": x[None]})

    def predicted(
        self, prompt: int, particles: Particles, predict: Predict, branch: str | None = None
    ) -> Prediction | None:
        """The stored answer of a Denoise of one row; None if there is none. predict: as of a process."""
        candidate, step, device = particles.candidates[0], particles.step, particles.x.device
        tensors = self._stored(self._predicted.get((prompt, candidate.id, step, branch or "")), candidate)
        if tensors is None:
            return None
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        rate = moved.get("rate")
        if "x0" in moved:  # earlier versions stored both estimates
            return Prediction(moved["x0"], moved["eps"], rate)
        return replace(predict(particles, moved["value"], moved.get(SEEN, particles.x)), rate=rate)

    def add_predicted(
        self, prompt: int, particles: Particles, value: Tensor, x: Tensor, rate: Tensor | None = None,
        branch: str | None = None,
    ) -> None:  # fmt: skip
        """Store each row of a model's output, from which the prediction follows, if there is a folder.

        value: the output [n, ...]. x: [n, *latent], the latents that the call saw. rate: see Prediction.
        """
        if self._writer is None:
            return
        tensors = {"value": value, SEEN: x, GIVEN: particles.x}
        if rate is not None:
            tensors["rate"] = rate
        suffix = "-predicted" + (f"-{branch}" if branch else "")
        more = {"branch": branch} if branch else None
        self._save("predict", prompt, particles.candidates, particles.step, tensors, suffix, more)

    @property
    def has_gradients(self) -> bool:
        return bool(self._graded)

    def graded(
        self,
        prompt: int,
        candidate: Candidate,
        step: int,
        asked: str,
        combine: Callable[[Tensor], Tensor],
        device: torch.device | None = None,
    ) -> Graded | None:
        """The stored answer of a Gradient (one row); None if there is none.

        asked: digest of the query's row. combine: from raw scores to totals.
        """
        tensors = self._stored(self._graded.get((prompt, candidate.id, step, asked)), candidate)
        if tensors is None:
            return None
        raw = tensors.pop("raw", None)
        tensors = {k: v.to(device) for k, v in tensors.items()}
        rate = tensors.pop("first_rate", None)
        prediction = Prediction(tensors.pop("first_x0"), tensors.pop("first_eps"), rate)
        tensors.setdefault("x0", prediction.x0)
        scores = None if raw is None else Scores(raw, combine)
        return Graded(**tensors, prediction=prediction, scores=scores)

    def add_graded(
        self, prompt: int, candidate: Candidate, step: int, asked: str, graded: Graded, nfe: int
    ) -> None:
        """Store one row of an answer, if there is a folder. nfe: spent by the prompt's search, this included."""
        if self.folder is None:
            return
        given = {k: getattr(graded, k) for k in ("gradient", "x0", "noises", "each", "each_noises")}
        tensors = {k: v for k, v in given.items() if v is not None}
        first = graded.prediction
        tensors |= {"first_x0": first.x0, "first_eps": first.eps}
        if first.rate is not None:
            tensors["first_rate"] = first.rate
        if first.x0.data_ptr() == graded.x0.data_ptr():  # the same tensor, if there was one model call
            del tensors["x0"]
        if graded.scores is not None:
            tensors["raw"] = graded.scores.raw
        more = {"asked": asked, "nfe": nfe}
        self._save("gradient", prompt, (candidate,), step, tensors, f"-gradient-{asked}", more, whole=True)

    def _stored(self, record: dict[str, Any] | None, candidate: Candidate) -> dict[str, Tensor] | None:
        """The tensors of a record; None if it describes another candidate: under another budget ids may be reused."""
        if record is None or self.folder is None or not (self.folder / record["file"]).exists():
            return None
        if candidate_of(record) != candidate:
            return None
        tensors = load_tensors(self.folder / record["file"], record.get("digest"))
        return tensors if all_finite(tensors) else None  # early versions stored such latents

    def _save(
        self,
        kind: str,
        prompt: int,
        candidates: Sequence[Candidate],
        step: int,
        tensors: Mapping[str, Tensor],
        suffix: str = "",
        more: Mapping[str, Any] | None = None,
        whole: bool = False,
    ) -> None:
        """Have the rows of tensors written, a file each, and a record of each. whole: all rows are one candidate's.

        Rows that are not finite are no answer and are not written.
        """
        if self._writer is None:
            return
        rows, tail = Rows(tensors), dict(more or {}) | {"seconds": round(self.seconds, 4)}
        self._writer.add(
            [
                Pending(
                    {"kind": kind, "prompt": prompt, **recipe(candidate), "step": step},
                    tail,
                    f"{prompt}-{candidate.id}-{step}{suffix}",
                    rows,
                    None if whole else i,
                )
                for i, candidate in enumerate(candidates)
            ]
        )

    def scored(self, prompt: int, candidate: Candidate, step: int) -> Entry | None:
        entry = self._scored.get((prompt, candidate.id, step))
        return entry if entry is not None and entry.candidate == candidate else None

    def add_score(self, entry: Entry, fresh: bool) -> None:
        """Add an entry to the run. fresh: also write it; entries that were read from disk are there already."""
        self.entries.append(entry)
        if fresh:
            self._write(entry.as_dict())

    def failed(self, prompt: int, candidate: Candidate, step: int, gradient: bool = False) -> Failure | None:
        """Why the run before it was resumed dropped a candidate at a step (gradient: for its gradient), if it did."""
        return self._failed.of(prompt, candidate, step, gradient)

    def add_failure(self, failure: Failure) -> None:
        self._write(failure.as_record())

    def add_state(self, identity: Mapping[str, str]) -> None:
        """Write parts of the heading's identity that the run itself has changed; none where there are none."""
        if identity:
            self._write({"kind": STATE, "identity": dict(identity)})

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.add([Pending(record)])

    def settle(self) -> None:
        """Wait until everything that was added is on the disk. UsageError: it cannot be written."""
        if self._writer is not None:
            self._writer.settle()

    def close(self) -> None:
        """Write what is left, and give the folder free. UsageError: it cannot be written."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None


def read_archive(folder: Path) -> list[dict[str, Any]]:
    """The records of a finished or killed run, the heading first. UsageError: they cannot be read."""
    return [record for record in read_records(folder / FILE) if record["kind"] != STATE]
