"""P(right) by verifiers that were calibrated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from genscale.engine.backbones import backbones
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_roles import VerifierSet
from genscale.media import Media
from genscale.protocol.calibration import Calibration
from genscale.results.verifier_calibration import VerifierCalibration
from genscale.results.verifier_calibration_file import IMAGES, read
from genscale.verifiers.reference_images import Check, panel


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

    @property
    def backbone(self) -> frozenset[str]:
        """Those of its verifiers."""
        return frozenset[str]().union(*(backbones(m.verifier) for m in self._panel.members))

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
        known = self.known
        self._panel.prepare([*prompts, *known.reference.prompts], device)
        if device in self._checked or not known.reference.prompts:
            return
        check = Check(
            self.folder, IMAGES, known.members, known.reference, "calibrated", "genscale calibrate-verifier"
        )
        check.refuse_change(self._panel, device)
        self._checked.add(device)

    @cached_property
    def _checked(self) -> set[torch.device]:
        return set()

    @cached_property
    def _read(self) -> tuple[VerifierCalibration, str]:
        return read(Path(self.folder))

    @cached_property
    def _panel(self) -> VerifierSet:
        return panel(self.known.members, self.known.frames)
