"""One verifier with its name and weight: how it is called, and what its answers must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genscale.engine.embeddings import numbers_of
from genscale.engine.ensembles import Column
from genscale.engine.score_vectors import as_vector, shape_of
from genscale.engine.verifier_calls import Left, call_verifier, unlimited
from genscale.errors import BudgetExhausted, UsageError, VerifierError
from genscale.media import Media
from genscale.protocol.calibration import scale_of
from genscale.protocol.interfaces import Verifier


@dataclass(frozen=True)
class WeightedVerifier:
    """A verifier with its name and weight. timeout: seconds of one call, where the verifier has no limit itself."""

    name: str
    verifier: Verifier
    weight: float = 1.0
    timeout: float | None = None

    @property
    def relative(self) -> bool:
        """Whether it gives embeddings, so that a candidate's score depends on the others."""
        return bool(getattr(self.verifier, "gives_embeddings", False))

    @property
    def column(self) -> Column:
        """What an ensemble knows of it."""
        scale = scale_of(self.verifier)
        probability = bool(getattr(self.verifier, "answers_probability", False))
        if self.relative:
            return Column(self.weight, relative=True)
        if scale is None:
            return Column(self.weight, probability=probability)
        return Column(self.weight, scale.mean, scale.sd, scale.noise_sd, probability)

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
        if self.relative:
            return self._numbers(raw, labels)
        return self._checked(raw, as_vector(raw, len(labels)), labels)

    def _numbers(self, raw: Any, labels: Sequence[str]) -> Tensor:
        """The numbers that stand for its embeddings."""
        vectors = raw if isinstance(raw, Tensor) else torch.as_tensor(raw)
        if vectors.ndim != 2 or len(vectors) != len(labels) or not vectors.shape[1] or vectors.is_complex():
            raise VerifierError(
                f"verifier '{self.name}' was given {len(labels)} images ({_span(labels)}) and returned "
                f"{shape_of(vectors)}: it gives embeddings, one row of numbers for each."
            )
        return numbers_of(vectors)

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


def _span(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
