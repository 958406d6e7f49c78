"""Whether verifiers are still those that something was learned of: reference images, and their scores of them then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genscale.engine.ledger import Ledger
from genscale.engine.tensor_files import load_tensors
from genscale.engine.verifier_roles import VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.media import Media
from genscale.numerics.probability_curve import Array
from genscale.plugins import options, registry
from genscale.results.verifier_calibration import Member, Reference

CHANGED = 0.05  # standard deviations by which a reference score may differ: dtypes and devices do less


def panel(members: Sequence[Member], frames: int | None) -> VerifierSet:
    """The verifiers that something was learned of. frames: of a video, that a verifier of images scores."""
    made = [_member(m) for m in members]
    if frames is not None:
        of_frames = registry.load("verifier", "frames")
        made = [v if getattr(v, "judges_videos", False) else of_frames(v, k=frames) for v in made]
    weighted = (
        WeightedVerifier(f"{i} {m.verifier}", v) for i, (m, v) in enumerate(zip(members, made, strict=True))
    )
    return VerifierSet(tuple(weighted))


def _member(member: Member) -> Any:
    cls = registry.load("verifier", member.verifier)
    values = options.typed("verifier", member.verifier, cls, member.options)
    if any(isinstance(v, str) and v.startswith(("http://", "https://")) for v in values.values()):
        raise UsageError(  # a folder from elsewhere may send nothing, least of all a key
            f"what was learned names a server, of verifier '{member.verifier}': learn of one that runs here."
        )
    return registry.make("verifier", member.verifier, values)


def with_references(
    members: Sequence[Member], judges: VerifierSet, media: Media, texts: Sequence[str], finals: Array
) -> tuple[Member, ...]:
    """The members with their scores of reference images. finals: their scores of finished candidates [n, K]."""
    labels = [f"reference image {i}" for i in range(len(texts))]
    scores = judges.score(media, texts, labels, Ledger()).numpy()
    return tuple(
        replace(m, references=tuple(scores[:, k].tolist()), spread=float(np.std(finals[:, k])))
        for k, m in enumerate(members)
    )


def eight_bit(media: Media) -> tuple[torch.Tensor, Media]:
    """Pixels as they are stored, and as they will be read."""
    pixels = (media.pixels.cpu() * 255).round().to(torch.uint8)
    return pixels, Media(pixels.to(media.pixels.device).float() / 255)


@dataclass(frozen=True)
class Check:
    """The check before a search. folder: of what was learned. learned: "calibrated"; again: the command that did it."""

    folder: str
    file: str
    members: Sequence[Member]
    reference: Reference
    learned: str
    again: str

    def refuse_change(self, judges: VerifierSet, device: torch.device) -> None:
        """UsageError: a verifier scores a reference image otherwise than it did, or the images are not there.

        judges: the members, made and prepared.
        """
        path = Path(self.folder) / self.file
        try:
            pixels = load_tensors(path, self.reference.digest, ("pixels",))["pixels"]
        except UsageError:
            raise UsageError(
                f"the reference images '{path}' are missing or damaged: restore them, or run {self.again} again."
            ) from None
        media = Media(pixels.to(device).float() / 255)
        labels = [f"reference image {i} of '{self.folder}'" for i in range(len(pixels))]
        now = judges.score(media, self.reference.prompts, labels, Ledger()).T.tolist()
        for member, scores in zip(self.members, now, strict=True):
            for before, score in zip(member.references, scores, strict=True):
                if abs(score - before) > CHANGED * member.spread + 1e-6:
                    raise UsageError(
                        f"verifier '{member.verifier}' has changed since it was {self.learned} in '{self.folder}' (it "
                        f"scores a reference image {score:.4g}, then {before:.4g}): run {self.again} again."
                    )
