"""Verifiers in their roles.

The search verifiers steer the sampler, the select verifiers pick the winner (by default the search verifiers do), and
the held-out verifiers only measure: the search never sees their scores. Scores of different roles are never mixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from genscale.engine.ensembles import ENSEMBLES, POINTWISE, VOTE
from genscale.engine.finite_numbers import kind
from genscale.engine.ledger import Ledger
from genscale.engine.score_vectors import as_vector, shape_of
from genscale.engine.verifier_calls import Left, call_verifier, unlimited
from genscale.errors import BudgetExhausted, UsageError, VerifierError
from genscale.media import Media
from genscale.plugins import limits, registry
from genscale.plugins.limits import shown
from genscale.protocol.calibration import Calibration
from genscale.protocol.interfaces import Verifier


@dataclass(frozen=True)
class WeightedVerifier:
    """A verifier with its name and weight. timeout: seconds of one call, where the verifier has no limit itself."""

    name: str
    verifier: Verifier
    weight: float = 1.0
    timeout: float | None = None

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load what it needs, for images on `device`. UsageError: that is missing, or it cannot score these prompts."""
        prepare = getattr(self.verifier, "prepare", None)
        if prepare is None:
            return
        try:
            prepare(prompts, device)
        except UsageError:
            raise
        except Exception as error:
            raise VerifierError(
                f"verifier '{self.name}' cannot be used here: {type(error).__name__}: {error}"
            ) from error

    def score(self, media: Media, prompts: Sequence[str], labels: Sequence[str]) -> Tensor:
        """Scores [n] float64. VerifierError: it failed or gave a NaN; the message names the candidate (labels)."""
        scores = self.raw_scores(media, prompts, labels)
        for label, score in zip(labels, scores.tolist(), strict=True):
            if not math.isfinite(score):
                raise VerifierError(
                    f"verifier '{self.name}' gave {score} for {label}: a score must be a finite number."
                )
        return scores

    def raw_scores(
        self,
        media: Media,
        prompts: Sequence[str],
        labels: Sequence[str],
        left: Left = unlimited,
        progress: Sequence[float] | None = None,
    ) -> Tensor:
        """The same, but a score may be NaN or infinite. progress: see `score_at` of protocol.interfaces.Verifier."""
        score: Callable[..., Any] = self.verifier
        score_at = getattr(self.verifier, "score_at", None)
        if progress is not None and score_at is not None:
            score = partial(score_at, progress=list(progress))
        raw = self._call(score, media, prompts, labels, left)
        return self._checked(raw, as_vector(raw, len(labels)), labels)

    def score_graph(
        self, media: Media, prompts: Sequence[str], labels: Sequence[str], left: Left = unlimited
    ) -> Tensor:
        """`raw_scores` with the graph to `media.pixels`. UsageError: the verifier is not differentiable."""
        score_tensor = getattr(self.verifier, "score_tensor", None)
        if score_tensor is None:
            raw = self._call(self.verifier, media, prompts, labels, left)
        else:
            raw = self._call(score_tensor, media.tensor, prompts, labels, left)
        if isinstance(raw, list | tuple) and raw and all(isinstance(r, Tensor) for r in raw):
            raw = torch.stack([r.reshape(()) for r in raw])
        if not isinstance(raw, Tensor) or not raw.requires_grad:
            raise UsageError(
                f"verifier '{self.name}' cannot be differentiated: search with one that has `score_tensor(pixels, "
                "prompts)` (clip, aesthetic, pickscore, hps, shapes_clip), or without gradients: gradient=none of das "
                "and svdd, or another sampler."
            )
        self._checked(raw, as_vector(raw, len(labels)), labels)
        return raw.cpu().double().reshape(len(labels))

    def _call(
        self, score: Callable[..., Any], media: Any, prompts: Sequence[str], labels: Sequence[str], left: Left
    ) -> Any:
        try:
            return call_verifier(score, self.verifier, media, prompts, self.timeout, left)
        except (UsageError, BudgetExhausted):
            raise
        except torch.cuda.OutOfMemoryError:  # the engine tries a smaller batch
            raise
        except Exception as error:
            raise VerifierError(
                f"verifier '{self.name}' failed on {_span(labels)}: {type(error).__name__}: {error}"
            ) from error

    def _checked(self, raw: Any, scores: Tensor | None, labels: Sequence[str]) -> Tensor:
        if scores is None:
            raise VerifierError(
                f"verifier '{self.name}' was given {len(labels)} images ({_span(labels)}) and returned "
                f"{shape_of(raw)}: it must return one number for each."
            )
        return scores


@dataclass(frozen=True)
class VerifierSet:
    """The verifiers of one role, and how their scores are combined to one number."""

    members: tuple[WeightedVerifier, ...] = ()
    ensemble: str = "weighted"

    def __post_init__(self) -> None:
        if not isinstance(self.ensemble, str) or self.ensemble not in ENSEMBLES:
            raise UsageError(f"ensemble '{self.ensemble}' is unknown: choose one of {', '.join(ENSEMBLES)}.")
        names = [m.name for m in self.members]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"verifier '{name}' is asked for twice in one role: name it once.")
        for member in self.members:
            if not math.isfinite(member.weight):
                raise UsageError(
                    f"verifier '{member.name}' has weight {member.weight}: give a finite number."
                )
        if self.ensemble == "rank" and any(m.weight < 0 for m in self.members):
            raise UsageError("a rank ensemble cannot use a negative weight: use the weighted ensemble.")
        if self.ensemble == "rank" and self.members and not any(m.weight for m in self.members):
            raise UsageError(
                "a rank ensemble of weights 0 ranks nothing: give one verifier a weight above 0."
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.members)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Prepare every verifier before anything is spent, as `WeightedVerifier.prepare`."""
        for member in self.members:
            member.prepare(prompts, device)

    def named(self, raw: Tensor) -> dict[str, float]:
        """One row of raw scores [verifiers], by verifier."""
        return dict(zip(self.names, raw.tolist(), strict=True))

    @property
    def pointwise(self) -> bool:
        """Whether a candidate's total does not depend on the other candidates."""
        return self.ensemble in POINTWISE

    @property
    def probability(self) -> bool:
        """Whether the combined score is a probability: one verifier, of weight 1, that answers one."""
        alone = self.members[0] if len(self.members) == 1 and self.pointwise else None
        return (
            alone is not None
            and alone.weight == 1
            and bool(getattr(alone.verifier, "answers_probability", False))
        )

    @property
    def calibration(self) -> Calibration | None:
        """How the probabilities of the combined score behave; None if that is not known."""
        return getattr(self.members[0].verifier, "calibration", None) if self.probability else None

    def combine(self, raw: Tensor) -> Tensor:
        weights = torch.tensor([m.weight for m in self.members], dtype=torch.float64)
        return ENSEMBLES[self.ensemble](raw, weights)

    def score(self, media: Media, prompts: Sequence[str], labels: Sequence[str], ledger: Ledger) -> Tensor:
        """Raw scores float64 [n, verifiers]. VerifierError: one of them is not finite."""
        return self._columns(WeightedVerifier.score, media, prompts, labels, ledger)

    def raw_scores(
        self,
        media: Media,
        prompts: Sequence[str],
        labels: Sequence[str],
        ledger: Ledger,
        left: Left = unlimited,
        progress: Sequence[float] | None = None,
    ) -> Tensor:
        """The same, but a score may be NaN or infinite.

        left: see genscale.engine.verifier_calls. progress: see WeightedVerifier.raw_scores.
        """
        score = partial(WeightedVerifier.raw_scores, left=left, progress=progress)
        return self._columns(score, media, prompts, labels, ledger)

    def score_graph(
        self,
        media: Media,
        prompts: Sequence[str],
        labels: Sequence[str],
        ledger: Ledger,
        left: Left = unlimited,
    ) -> Tensor:
        """`raw_scores` with the graph to `media.pixels`. UsageError: a verifier is not differentiable."""
        return self._columns(partial(WeightedVerifier.score_graph, left=left), media, prompts, labels, ledger)

    def fault(self, row: Tensor) -> tuple[str, str] | None:
        """What is not finite in one row of raw scores [verifiers], or in their weighted sum: where, and what."""
        for member, score in zip(self.members, row.tolist(), strict=True):
            if not math.isfinite(score):
                return f"verifier {member.name}", kind(score)
        total = float(self.combine(row[None])[0])
        return None if math.isfinite(total) else ("weighted sum of the scores", kind(total))

    def check_differentiable(self) -> None:
        """UsageError if the combined score has no gradient, whatever the images are."""
        if not self.members:
            raise UsageError("a gradient needs a verifier's score: name a verifier for the search.")
        if not self.pointwise:
            raise UsageError(
                "ranks and votes have no gradient: use the weighted ensemble, gradient=none of das and svdd, or "
                "another sampler."
            )

    def _columns(
        self,
        score: Callable[..., Tensor],
        media: Media,
        prompts: Sequence[str],
        labels: Sequence[str],
        ledger: Ledger,
    ) -> Tensor:
        columns = []
        for member in self.members:
            with ledger.clock("verify"):
                columns.append(score(member, media, prompts, labels))
            ledger.count_scores(member.name, len(labels))
        return torch.stack(columns, dim=1) if columns else torch.zeros(len(labels), 0, dtype=torch.float64)


@dataclass(frozen=True)
class Roles:
    """The verifiers of each role: search steers, select picks (search if it is empty), held_out only measures.

    guard: those of stop rules that watch the leaders (genscale.engine.guard).
    """

    search: VerifierSet = VerifierSet()
    select: VerifierSet = VerifierSet()
    held_out: VerifierSet = VerifierSet()
    guard: VerifierSet = VerifierSet()

    @property
    def all(self) -> tuple[VerifierSet, ...]:
        """In the order of the fields."""
        return self.search, self.select, self.held_out, self.guard

    @property
    def judge(self) -> VerifierSet:
        """The verifiers that pick the winner."""
        return self.select if self.select.members else self.search

    @property
    def judging(self) -> bool:
        """Whether there is any verifier, so that images must be decoded."""
        return any(verifiers.members for verifiers in self.all)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Prepare the verifiers of all roles before anything is spent, as `WeightedVerifier.prepare`."""
        for verifiers in self.all:
            verifiers.prepare(prompts, device)

    @property
    def calls(self) -> int:
        """Verifier calls of one finished candidate, as the budget counts them."""
        return len(self.search.members) + len(self.select.members)


def _span(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"


def verifier_set(verifiers: Any, ensemble: str, timeout: float | None = None) -> VerifierSet:
    """The verifiers of one role, from None, a name, a callable, a pair (verifier, weight), or a list of these.

    timeout: seconds of one call, for those without a limit of their own.
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise UsageError(f"verifier_timeout={timeout} must be a number of seconds above 0.")
    if verifiers is None:
        return VerifierSet((), ensemble)
    if not isinstance(verifiers, list):
        verifiers = [verifiers]
    made = VerifierSet(tuple(_weighted_verifier(v, timeout) for v in verifiers), ensemble)
    for member in made.members:
        answers = bool(getattr(member.verifier, "gives_answers", False))
        if answers and ensemble != VOTE:
            raise UsageError(
                f"verifier '{member.name}' gives answers, which are counted: use ensemble='{VOTE}'."
            )
        if ensemble == VOTE and not answers:
            raise UsageError(
                f"a vote counts equal answers, and verifier '{member.name}' gives scores: use answers, or another "
                "ensemble."
            )
        if ensemble == VOTE and member.weight != 1:
            raise UsageError(f"a vote has no weights: give verifier '{member.name}' none.")
    return made


def _weighted_verifier(verifier: Any, timeout: float | None) -> WeightedVerifier:
    weight = 1.0
    if isinstance(verifier, tuple):
        if len(verifier) != 2 or not isinstance(verifier[1], Real) or isinstance(verifier[1], bool):
            raise UsageError(f"{shown(verifier)} is no pair (verifier, weight): give a number as weight.")
        verifier, weight = verifier
    if isinstance(verifier, str):
        return WeightedVerifier(verifier, registry.make("verifier", verifier, {}), float(weight), timeout)
    if not callable(verifier) or isinstance(verifier, type):
        raise UsageError(
            f"{verifier!r} is not a verifier: give a name or a callable (media, prompts) -> scores."
        )
    limits.check_plugin(f"verifier {type(verifier).__name__}", verifier)
    name = getattr(verifier, "name", None) or getattr(verifier, "__name__", None) or type(verifier).__name__
    return WeightedVerifier(str(name), verifier, float(weight), timeout)
