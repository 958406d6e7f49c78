"""Which numbers are finite, and where those of a candidate stopped being so.

Latents are checked where they are decoded and scored, so nothing in the loop waits for the accelerator. What is noted
at each step stays on the device, and is read only to say where a candidate that has failed stopped being finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from genscale.media import Media
from genscale.media_items import Mesh
from genscale.protocol.particles import Candidate

MOST_TRACED = 4096  # candidates whose notes are kept; those that were never scored are forgotten first


def finite_rows(values: Tensor) -> Tensor:
    """bool [n], on the device of the values [n, ...]: whether every number of a row is finite."""
    return values.detach().isfinite().flatten(1).all(1)


def kind(number: float) -> str:
    """A number that is not finite, as it is named in messages."""
    return "NaN" if number != number else "inf" if number > 0 else "-inf"


def kind_in(values: Tensor) -> str:
    """What is not finite in a tensor."""
    return "NaN" if bool(values.isnan().any()) else "infinite values"


def media_faults(media: Media) -> dict[int, str]:
    """What is not finite in the rows that have such numbers. Texts are always finite."""
    data = media.data
    if isinstance(data, Tensor):
        finite = finite_rows(data).tolist() if media.finite is None else media.finite
        return {i: kind_in(data[i]) for i, fine in enumerate(finite) if not fine}
    meshes = {i: torch.from_numpy(item.vertices) for i, item in enumerate(data) if isinstance(item, Mesh)}
    return {i: kind_in(x) for i, x in meshes.items() if not x.isfinite().all()}


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether stored tensors are an answer: rates may be infinite, nothing else."""
    return all(bool(t.isfinite().all()) for name, t in tensors.items() if name not in ("rate", "first_rate"))


class FiniteTrace:
    """Which model outputs and latents of the candidates under way were finite, for one search.

    The notes are numbers on the device. Reading them waits for the accelerator, so that is done only for a candidate
    that has failed.
    """

    def __init__(self) -> None:
        self._notes: dict[int, list[tuple[int, int, Tensor, Tensor]]] = {}
        """candidate: (step, row, largest magnitudes [n] of the model's output, and of the latents)"""

    def note(self, candidates: Sequence[Candidate], step: int, output: Tensor, x: Tensor) -> None:
        """After a step: the model's output [n, ...] and the new latents [n, *latent]."""
        largest = _largest(output), _largest(x)
        for row, candidate in enumerate(candidates):
            self._notes.setdefault(candidate.id, []).append((step, row, *largest))
        while len(self._notes) > MOST_TRACED:
            del self._notes[next(iter(self._notes))]

    def forget(self, candidate: Candidate) -> None:
        """Drop the notes of a candidate whose latents are known to be finite, or that has ended."""
        self._notes.pop(candidate.id, None)

    def first(self, candidate: Candidate) -> tuple[str, int] | None:
        """("denoiser" or "scheduler", step) where a candidate stopped being finite; None if that was not noted."""
        for step, row, output, x in self._notes.get(candidate.id, ()):
            if not output[row].isfinite():
                return "denoiser", step
            if not x[row].isfinite():
                return "scheduler", step
        return None


def _largest(values: Tensor) -> Tensor:
    """[n]: the largest magnitude of each row of values [n, ...]; NaN where one is NaN. Cheaper than `finite_rows`."""
    rows = values.detach().flatten(1)
    return rows.abs().amax(1) if rows.is_floating_point() and rows.shape[1] else rows.new_zeros(len(rows))
