"""Decodes candidates and asks the verifiers about them: from latents to scores, wherever the pipeline is.

It knows nothing of searches, so that it can be done in another process than theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from genscale.engine.finite_numbers import finite_rows, kind_in, media_faults
from genscale.engine.judged_kinds import check_judges
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_calls import Left, unlimited
from genscale.engine.verifier_roles import Roles
from genscale.media import Media, cat_media
from genscale.numerics.transfers import HostCopy, take_rows
from genscale.protocol.batches import Decode

LATENTS = "latents"
"""Where a fault is, if the latents that were to be decoded are not finite: the search may know more."""


@dataclass(frozen=True)
class Unjudged:
    """Candidates that are decoded and scored together.

    latents: [n, *latent], beside the model. prompts: index of each one's prompt. texts: of the prompts. labels: how
    messages name the candidates. finals: whether they are finished, and so judged by the select verifiers, too.
    progress: the share of its model calls that each has behind it.
    """

    latents: Tensor
    prompts: tuple[int, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    finals: tuple[bool, ...]
    progress: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: torch.device) -> Unjudged:
        return replace(self, latents=self.latents.to(device))

    def split(self, size: int) -> list[Unjudged]:
        """Parts of at most `size` candidates, in order."""
        parts = [slice(start, start + size) for start in range(0, len(self), size)]
        return [Unjudged(*(getattr(self, f.name)[part] for f in fields(self))) for part in parts]


@dataclass
class Judged:
    """What was found. All fields but `decoded` and `media` are by index of the candidate.

    faults: (where, what) of those that are dropped. decoded: those that are decoded, in the order of `media`.
    raw: scores of the search verifiers [verifiers]. select: of the select verifiers, by name. vectors: embeddings by
    verifier, for which these scores hold the numbers that stand for them.
    """

    faults: dict[int, tuple[str, str]] = field(default_factory=dict)
    decoded: list[int] = field(default_factory=list)
    media: Media | None = None
    raw: dict[int, Tensor] = field(default_factory=dict)
    select: dict[int, dict[str, float]] = field(default_factory=dict)
    vectors: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @staticmethod
    def cat(parts: Sequence[tuple[int, Judged]]) -> Judged:
        """What was found of all candidates. parts: (how many candidates, what was found of them), in order."""
        whole, at = Judged(), 0
        for n, part in parts:
            whole.decoded += [at + k for k in part.decoded]
            for name in ("faults", "raw", "select", "vectors"):
                getattr(whole, name).update((at + k, what) for k, what in getattr(part, name).items())
            at += n
        media = [part.media for _, part in parts if part.media is not None]
        whole.media = cat_media(media) if media else None
        return whole

    def images(self, some: Sequence[int]) -> Media | None:
        """Those of some candidates; None if nothing is decoded."""
        if self.media is None or list(some) == self.decoded:
            return self.media
        places = [self.decoded.index(k) for k in some]
        return self.media[places[0] : places[0] + 1] if len(places) == 1 else self.media.rows(places)


@dataclass
class Judging:
    """Decodes by `decode`, and asks the search and select verifiers. ledger: counts both."""

    roles: Roles
    decode: Decode
    ledger: Ledger

    def __call__(self, asked: Unjudged, left: Left = unlimited) -> Judged:
        """Decode and score. left: see `genscale.engine.verifier_calls`.

        A candidate whose latents, pixels or scores are not finite has a fault. Without any verifier nothing is decoded,
        and all candidates are equal.
        """
        found = Judged()
        self._decode(asked, found)
        self._ask(asked, found, left)
        return found

    def _decode(self, asked: Unjudged, found: Judged) -> None:
        """Decode the candidates whose latents are finite, if there is a verifier.

        Whether they are is not waited for where that would leave the accelerator idle: all are decoded there, and those
        that are not finite are dropped afterwards.
        """
        finite = HostCopy(finite_rows(asked.latents))
        if asked.latents.device.type == "cpu" or not self.roles.judging:
            _drop_latents(asked, found, finite)
        rows = _alive(asked, found)
        if not self.roles.judging or not rows:
            return
        try:
            media = self._decoded(asked, rows)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception:
            if not _drop_latents(asked, found, finite):
                raise
            rows = _alive(asked, found)  # those that are not finite may have been what failed
            if not rows:
                return
            media = self._decoded(asked, rows)
        check_judges(self.roles, {media.kind})
        found.decoded, found.media = rows, media
        faults = {rows[i]: ("decoder", what) for i, what in media_faults(media).items()}
        _drop_latents(asked, found, finite)
        found.faults |= {k: fault for k, fault in faults.items() if k not in found.faults}
        self.ledger.decodes += sum(found.faults.get(k, ("decoder",))[0] == "decoder" for k in rows)

    def _decoded(self, asked: Unjudged, rows: Sequence[int]) -> Media:
        with self.ledger.clock("decode"):
            return self.decode(take_rows(asked.latents, rows), tuple(asked.prompts[k] for k in rows))

    def _ask(self, asked: Unjudged, found: Judged, left: Left) -> None:
        """Ask the search verifiers about all candidates, and the select verifiers about the finished ones."""
        found.raw = {k: torch.zeros(0, dtype=torch.float64) for k in _alive(asked, found)}
        for verifiers, final in ((self.roles.search, False), (self.roles.select, True)):
            rows = [k for k in _alive(asked, found) if asked.finals[k] or not final]
            media = found.images(rows)
            if not rows or not verifiers.members or media is None:
                continue
            texts, labels = [asked.texts[k] for k in rows], [asked.labels[k] for k in rows]
            progress = None if final else [asked.progress[k] for k in rows]
            scores = verifiers.raw_scores(media, texts, labels, self.ledger, left, progress)
            for k, raw in zip(rows, scores, strict=True):
                if (fault := verifiers.fault(raw)) is not None:
                    found.faults[k] = fault
                    continue
                found.vectors.setdefault(k, {}).update(verifiers.vectors(raw))
                if final:
                    found.select[k] = verifiers.named(raw)
                else:
                    found.raw[k] = raw


def _alive(asked: Unjudged, found: Judged) -> list[int]:
    return [k for k in range(len(asked)) if k not in found.faults]


def _drop_latents(asked: Unjudged, found: Judged, finite: HostCopy) -> bool:
    """Drop the candidates whose latents are not finite, unless they are dropped already; whether there were any."""
    lost = [k for k, fine in enumerate(finite.get().tolist()) if not fine and k not in found.faults]
    found.faults |= {k: (LATENTS, kind_in(asked.latents[k])) for k in lost}
    return bool(lost)
