"""What the verifiers by the detector of coloured shapes have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from genscale.verifiers.attribute_detector import Detector, read_detector
from genscale.verifiers.checkpoints import check_settings
from genscale.verifiers.differentiable import LoadedPerDevice
from genscale.verifiers.shapes import check_captions


@dataclass(frozen=True)
class ByDetector(LoadedPerDevice[Detector]):
    """P(right) for captions of one world; the verifiers explain the fields."""

    device: str | None = None
    batch_size: int = 64

    name: ClassVar[str]
    reads_prompts: ClassVar[bool] = True
    answers_probability: ClassVar[bool] = True
    backbone: ClassVar[str] = "shapes-attributes"

    def __post_init__(self) -> None:
        check_settings(None, self.batch_size)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model. UsageError: it is missing, or a prompt is no caption of the world."""
        check_captions(self.name, self.read, prompts)
        self.load(device)

    @staticmethod
    def read(text: str) -> Any:
        """What a caption requires. ValueError: it is no caption of the world."""
        raise NotImplementedError

    def _load_on(self, device: torch.device) -> Detector:
        return read_detector().to(device)
