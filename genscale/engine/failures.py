"""Candidates that are dropped because some of their numbers are not finite (NaN or infinite).

Such a candidate is never chosen, never stored as an answer, and never continued from; the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genscale.engine.finite_numbers import FiniteTrace
from genscale.engine.recipes import candidate_of, recipe
from genscale.protocol.particles import Candidate

MOST_NAMED = 3  # causes that a sentence lists
CALL = "call"  # where a failure was found of which there are no numbers: the generator was called in vain
GRADIENT = "gradient"  # where a failure was found that does not concern the candidate's image
HOPELESS = (
    64  # candidates that fail one after the other, before a search that only stop rules limit is given up
)


@dataclass(frozen=True)
class Failure:
    """Why a candidate was dropped.

    prompt: its index. step: of the process, where it was found. final: whether its latents were clean there. where:
    what gave the number: "denoiser", "scheduler", "latents" (it is not known which of these), "decoder", "gradient",
    "verifier clip", "weighted sum of the scores", or "call" (of a generator that is called as a whole). what: what was
    found, such as "NaN at step 3". nfe: spent by the prompt's search by then. seconds: since the run began.
    """

    prompt: int
    candidate: Candidate
    step: int
    final: bool
    where: str
    what: str
    nfe: int = 0
    seconds: float = 0.0

    @property
    def cause(self) -> str:
        """In words: "the denoiser gave NaN at step 3"."""
        return cause(self.where, self.what)

    def sentence(self, prompt: str) -> str:
        return f"candidate {self.candidate.id} of '{prompt}' was dropped: {self.cause}."

    def as_record(self) -> dict[str, Any]:
        """For the archive."""
        record = {k: v for k, v in vars(self).items() if k != "candidate"}
        return {"kind": "failed", **record, **recipe(self.candidate)}

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> Failure:
        names = ("prompt", "step", "final", "where", "what", "nfe", "seconds")
        return Failure(candidate=candidate_of(record), **{name: record[name] for name in names})

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        found = {"candidate": self.candidate.id, "step": self.step, "final": self.final}
        return found | {"where": self.where, "what": self.what}


def cause(where: str, what: str) -> str:
    """A failure in words."""
    return f"the {where} {'is' if where == GRADIENT else 'gave'} {what}"


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """Dropped candidates (as of `Failure.as_dict`) in a few words: how many, and why."""
    causes = Counter(cause(r["where"], r["what"]) for r in records)
    named = [f"{text} ({n} times)" if n > 1 else text for text, n in causes.most_common(MOST_NAMED)]
    rest = len(causes) - len(named)
    return "; ".join([*named, *([f"and {rest} more causes"] if rest > 0 else [])])


def all_failed(prompt: str, failures: Sequence[Failure]) -> str:
    """The sentence with which a prompt's search ends if no candidate is left."""
    count = "the only candidate" if len(failures) == 1 else f"all {len(failures)} candidates"
    cure = (
        "use bfloat16 or float32 instead of float16, a smaller guidance scale, or another verifier if that is named "
        "here"
    )
    if all(f.where == CALL for f in failures):
        cure = "see that what is called can be reached, and call again"
    return f"{count} of '{prompt}' failed: {summary([f.as_dict() for f in failures])}; {cure}."


@dataclass
class Failures:
    """The candidates of one search that were dropped.

    all: in the order in which they were found. in_a_row: how many since a candidate was last finished. trace: where
    candidates under way stopped being finite.
    """

    all: list[Failure] = field(default_factory=list)
    in_a_row: int = 0
    trace: FiniteTrace = field(default_factory=FiniteTrace)
    _by_id: dict[int, Failure] = field(default_factory=dict)

    def of(self, candidate: Candidate) -> Failure | None:
        """Why a candidate was dropped; None if it was not."""
        return self._by_id.get(candidate.id)

    def but(self, finished: set[int]) -> list[Failure]:
        """Those of candidates with other ids than these."""
        return [f for f in self.all if f.candidate.id not in finished]

    def add(self, failure: Failure) -> None:
        self.all.append(failure)
        self._by_id[failure.candidate.id] = failure
        self.in_a_row += 1
        self.trace.forget(failure.candidate)


class ArchivedFailures:
    """Failures of the run before it was resumed, so that it goes on without these candidates."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int, int, bool], Failure] = {}

    def read(self, record: Mapping[str, Any]) -> None:
        failure = Failure.of_record(record)
        where = (failure.prompt, failure.candidate.id, failure.step, failure.where == GRADIENT)
        self._found[where] = failure

    def of(self, prompt: int, candidate: Candidate, step: int, gradient: bool) -> Failure | None:
        found = self._found.get((prompt, candidate.id, step, gradient))
        return found if found is not None and found.candidate == candidate else None
