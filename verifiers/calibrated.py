"""P(right) by verifiers that were calibrated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.engine.ledger import Ledger
from genscale.engine.tensor_files import load_tensors
from genscale.engine.verifier_roles import VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import options, registry
from genscale.protocol.calibration import Calibration
from genscale.results.verifier_calibration import Member, VerifierCalibration
from genscale.results.verifier_calibration_file import IMAGES, read

CHANGED = 0.05  # standard deviations by which a reference score may differ: dtypes and devices do less


@dataclass(frozen=True)
class Calibrated:
    """The probability, in (0, 1), that an image is right for its prompt, by verifiers that were calibrated together.

    The folder is written by `genscale calibrate-verifier`: curves from each verifier's scores to probabilities, which
    are combined in log-odds, for finished candidates and for previews. The score of a preview is the probability that
    the *finished* candidate will be right. Between the shares of the run that were calibrated log-odds are
    interpolated; before the first one it is the base rate, whatever the preview shows.

    Before a search starts the verifiers score the reference images of the folder again: where a score differs, the
    verifier is not the one that was calibrated (other weights, other code), and it is refused.

    Blind spots: those of its verifiers. It holds for images like those it was calibrated on: the same model, the same
    kind of prompts, about as many steps. It gives no gradients. On the command line also `calibrated:DIR`.

    folder: where the calibration is.
    """

    folder: str

    answers_probability: ClassVar[bool] = True
    retries: ClassVar[int] = 0  # of the call as a whole: its remote verifiers have retries of their own

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.path.abspath(os.path.expanduser(self.folder)))
        self._panel  # noqa: B018  what cannot be used is refused here

    @cached_property
    def name(self) -> str:
        """The name of its scores in results: the same from every working folder."""
        return f"calibrated({Path(self.folder).name})"

    @property
    def identity(self) -> str:
        """Runs are the same where the content of the calibration is, wherever it lies."""
        return f"calibrated {self._read[1]}"

    @property
    def known(self) -> VerifierCalibration:
        """What the folder holds."""
        return self._read[0]

    @property
    def calibration(self) -> Calibration:
        """Its probabilities for the labelled candidates, by curves that did not see the candidate's prompt."""
        return self.known.table

    @property
    def judges_videos(self) -> bool:
        """Whether it was calibrated on videos."""
        return self.known.frames is not None

    @property
    def reads_prompts(self) -> bool:
        return any(getattr(m.verifier, "reads_prompts", True) is not False for m in self._panel.members)

    @property
    def remote(self) -> bool:
        """Whether one of its verifiers asks a server."""
        return any(getattr(m.verifier, "remote", False) for m in self._panel.members)

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """P(right) [n], float64, of finished images."""
        return self.score_at(media, prompts, [1.0] * len(prompts))

    def score_at(self, media: Media, prompts: Sequence[str], progress: Sequence[float]) -> Tensor:
        """P(the finished candidate is right) [n], float64. progress: share of the run [n] behind each image."""
        labels = [f"image {i}" for i in range(len(prompts))]
        scores = self._panel.raw_scores(media, prompts, labels, Ledger(), progress=progress)
        return torch.from_numpy(self.known.probabilities(scores.numpy(), progress))

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Prepare the verifiers, and see that they are still those that were calibrated. UsageError: one is not."""
        reference, path = self.known.reference, Path(self.folder) / IMAGES
        self._panel.prepare([*prompts, *reference.prompts], device)
        if device in self._checked or not reference.prompts:
            return
        try:
            pixels = load_tensors(path, reference.digest, ("pixels",))["pixels"]
        except UsageError:
            raise UsageError(
                f"the reference images '{path}' are missing or damaged: restore them, or calibrate again."
            ) from None
        media = Media(pixels.to(device).float() / 255)
        labels = [f"reference image {i} of '{self.folder}'" for i in range(len(pixels))]
        now = self._panel.score(media, reference.prompts, labels, Ledger()).T.tolist()
        for member, scores in zip(self.known.members, now, strict=True):
            self._refuse_change(member, scores)
        self._checked.add(device)

    def _refuse_change(self, member: Member, now: Sequence[float]) -> None:
        for before, score in zip(member.references, now, strict=True):
            if abs(score - before) > CHANGED * member.spread + 1e-6:
                raise UsageError(
                    f"verifier '{member.verifier}' has changed since it was calibrated in '{self.folder}' (it scores a "
                    f"reference image {score:.4g}, then {before:.4g}): run genscale calibrate-verifier again."
                )

    @cached_property
    def _checked(self) -> set[torch.device]:
        return set()

    @cached_property
    def _read(self) -> tuple[VerifierCalibration, str]:
        return read(Path(self.folder))

    @cached_property
    def _panel(self) -> VerifierSet:
        return panel(self.known.members, self.known.frames)


def panel(members: Sequence[Member], frames: int | None) -> VerifierSet:
    """The verifiers of a calibration. frames: of a video, that a verifier of images scores."""
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
    return registry.make("verifier", member.verifier, values)
