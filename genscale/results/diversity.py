"""How different the best candidates of a prompt are: a search that finds one image many times has a high score and
little to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genscale.engine.verifier_roles import Roles
from genscale.numerics.diversity import mean_pairwise_distance, vendi_score

if TYPE_CHECKING:
    from genscale.media import Item


@dataclass(frozen=True)
class Diversity:
    """Of so many of the best candidates of one prompt.

    by: the verifier whose image embeddings were compared. vendi: the effective number of different ones, in [1, of]
    (Friedman & Dieng 2023, arXiv 2210.02410). distance: the mean of 1 - cosine over all pairs, in [0, 2].
    """

    of: int
    by: str
    vendi: float
    distance: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def diversity_of(pixels: Tensor, roles: Roles) -> Diversity | None:
    """Of images [n, 3, h, w] or videos [n, frames, 3, h, w] in [0, 1], by the first verifier that has embeddings.

    A video's embedding is the mean of those of its frames. None: there are fewer than two, or no verifier has any.
    """
    for member in (
        m for verifiers in (roles.search, roles.select, roles.held_out) for m in verifiers.members
    ):
        embed = _embedder(member.verifier)
        if embed is not None and len(pixels) > 1:
            with torch.no_grad():
                found = embed(pixels)
            found = found.mean(1) if found.ndim > 2 else found
            return Diversity(len(found), member.name, vendi_score(found), mean_pairwise_distance(found))
    return None


def vendi_title(prompts: Sequence[Mapping[str, Any]]) -> str:
    """For the title of a picture, of the records of prompts in run.json; "" where no diversity was measured."""
    known = [p["diversity"] for p in prompts if p.get("diversity")]
    if not known:
        return ""
    return f"Vendi {fmean(d['vendi'] for d in known):.2f} of {max(d['of'] for d in known)}"


def _embedder(verifier: Any) -> Any:
    """Its `embed`, or that of the verifier that it wraps; None where there is none."""
    found = getattr(verifier, "embed", None)
    inner = getattr(verifier, "verifier", None)
    return found if found is not None or inner is None or isinstance(inner, str) else _embedder(inner)


def pixels_of(items: Iterable[Item]) -> Tensor | None:
    """Pixels in [0, 1] of PIL images of one size, or of videos as lists of them; None of anything else."""
    found = [_array(item) for item in items]
    arrays = [array for array in found if array is not None]
    if len(arrays) < len(found) or len({array.shape for array in arrays}) != 1:
        return None
    return torch.from_numpy(np.stack(arrays)).movedim(-1, -3).float() / 255


def _array(item: Any) -> np.ndarray | None:
    frames: Sequence[Any] = item if isinstance(item, list) else [item]
    if not all(hasattr(frame, "convert") for frame in frames):
        return None
    found = [np.asarray(frame.convert("RGB")) for frame in frames]
    return np.stack(found) if isinstance(item, list) else found[0]
