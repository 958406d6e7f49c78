"""A verifier with the scale and the noise of its scores, as `genscale calibrate` measured them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from genscale.errors import UsageError, did_you_mean
from genscale.protocol.calibration import ScoreScale
from genscale.results.score_calibration import IMAGES, MeasuredScores, ScoreCalibration, read
from genscale.verifiers.reference_images import Check, panel

COMMAND = "genscale calibrate"


@dataclass(frozen=True)
class Measured:
    """Another verifier, with the mean, the standard deviation and the noise of its scores on prompts like yours.

    Its scores are the verifier's own. What was measured is told to the search: the ensembles "standardised" and
    "minimum" then use this mean and standard deviation in place of those of the candidates, so that a total does not
    depend on the other candidates, and abstention uses the noise. The folder is written by `genscale calibrate`. Before
    a search starts the verifier scores the reference images of the folder again: where a score differs, it is not the
    one that was measured (other weights, other code), and it is refused.

    Blind spots: those of its verifier; and what a crop, a JPEG file and a mirror do not change is no noise here,
    however wrong it is. On the command line also `measured:DIR`.

    folder: what `genscale calibrate` wrote. verifier: which of its verifiers, by name; "" where there is one.
    """

    folder: str
    verifier: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.path.abspath(os.path.expanduser(self.folder)))
        names = [s.name for s in self.known.scores]
        if self.verifier and self.verifier not in names:
            raise UsageError(
                f"'{self.folder}' measured no verifier '{self.verifier}'{did_you_mean(self.verifier, names)}: name one "
                f"of {', '.join(names)}."
            )
        if not self.verifier and len(names) > 1:
            raise UsageError(
                f"'{self.folder}' measured {' and '.join(names)}: name one, such as measured(folder=DIR,"
                f"verifier={names[0]})."
            )
        self._own  # noqa: B018  what cannot be used is refused here

    @cached_property
    def name(self) -> str:
        """The name of its scores in results."""
        return f"measured({self.scores.name})"

    @property
    def identity(self) -> str:
        """Runs are the same where the content of the folder is, wherever it lies."""
        return f"measured {self._read[1]} {self.scores.name}"

    @property
    def known(self) -> ScoreCalibration:
        """What the folder holds."""
        return self._read[0]

    @property
    def scores(self) -> MeasuredScores:
        """What it holds of this verifier."""
        return self.known.of(self.verifier) if self.verifier else self.known.scores[0]

    @property
    def score_scale(self) -> ScoreScale | None:
        """Mean, standard deviation and noise, for ensembles and abstention."""
        return self.scores.scale

    def __call__(self, media: Any, prompts: Sequence[str]) -> Any:
        return self._own(media, prompts)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Prepare the verifier, and see that it is still the one that was measured. UsageError: it is not."""
        known = self.known
        self._panel.prepare([*prompts, *known.reference.prompts], device)
        if device not in self._checked and known.reference.prompts:
            check = Check(self.folder, IMAGES, (self.scores.member,), known.reference, "measured", COMMAND)
            check.refuse_change(self._panel, device)
            self._checked.add(device)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(self._own, attribute)

    @property
    def _own(self) -> Any:
        return self._panel.members[0].verifier

    @cached_property
    def _checked(self) -> set[torch.device]:
        return set()

    @cached_property
    def _read(self) -> tuple[ScoreCalibration, str]:
        return read(Path(self.folder))

    @cached_property
    def _panel(self) -> Any:
        return panel([self.scores.member], self.known.frames)
