"""The final score, predicted from a preview by what was learned of earlier runs."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genscale.engine.backbones import backbones
from genscale.engine.ledger import Ledger
from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.learned_preview_file import IMAGES, Learned, PreviewLevel, read
from genscale.verifiers.reference_images import Check, panel

COMMAND = "genscale train-preview"


@dataclass(frozen=True)
class LearnedPreview:
    """The score that another verifier will give the finished image, predicted from previews by earlier runs.

    The folder is written by `genscale train-preview`. A finished image gets the verifier's own score. A preview gets
    the predicted one, by a ridge regression for its share of the run: on what the verifier offers of the preview and
    its prompt (`preview_features`), or on its score alone where that ranks held-out candidates as well. With a tuned
    network the verifier looks at the preview through a copy of its network that was taught to say of the preview what
    the verifier says of the finished image: self-distillation at each noise level, from clean to noisy, after TTSnap
    (arXiv 2511.22242). Unlike there each level has a copy of its own, with a linear head.

    A preview between two shares of the run that were learned is taken as one of the nearer. Before a search starts the
    verifier scores the reference images of the folder again; where a score differs, it is refused.

    Blind spots: those of its verifier. It holds for images like those that it learned from: the same model, the same
    kind of prompts, as many steps. It gives no gradients. On the command line also `learned_preview:DIR`.

    folder: what `genscale train-preview` wrote.
    digest: of its content, as a calibration keeps it; another content is refused. None, the default, takes any.
    """

    folder: str
    digest: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.path.abspath(os.path.expanduser(self.folder)))
        self._panel  # noqa: B018  what cannot be used is refused here
        if self.digest not in (None, self._read[1]):
            raise UsageError(
                f"'{self.folder}' holds another learned preview than the one that was calibrated: restore it, or "
                "run genscale calibrate-verifier again."
            )

    @cached_property
    def name(self) -> str:
        """The name of its scores in results: the same from every working folder."""
        return f"learned_preview({Path(self.folder).name})"

    @property
    def identity(self) -> str:
        """Runs are the same where the content of the folder is, wherever it lies."""
        return f"learned preview {self._read[1]}"

    @property
    def pinned(self) -> dict[str, Any]:
        """Options by which a calibration keeps to this content."""
        return {"digest": self._read[1]}

    @property
    def known(self) -> Learned:
        """What the folder holds."""
        return self._read[0]

    @property
    def answers_probability(self) -> bool:
        """Whether its verifier answers one; predictions are then cut to [0, 1]."""
        return bool(getattr(self._own, "answers_probability", False))

    @property
    def reads_prompts(self) -> bool:
        return getattr(self._own, "reads_prompts", True) is not False

    @property
    def judges_videos(self) -> bool:
        """Whether it was learned of videos."""
        return self.known.frames is not None

    retries: ClassVar[int] = 0

    @property
    def backbone(self) -> frozenset[str]:
        """That of its verifier."""
        return backbones(self._own)

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """The verifier's scores [n], float64, of finished images."""
        labels = [f"image {i}" for i in range(len(prompts))]
        scores: Tensor = self._panel.raw_scores(media, prompts, labels, Ledger())[:, 0]
        return scores

    def score_at(self, media: Media, prompts: Sequence[str], progress: Sequence[float]) -> Tensor:
        """The score [n], float64, that each finished image will have. progress: share of the run [n] behind it."""
        found = torch.empty(len(prompts), dtype=torch.float64)
        places = [-1 if share >= 1 else self.known.nearest(share) for share in progress]
        for place in sorted(set(places)):
            rows = [i for i, p in enumerate(places) if p == place]
            some, texts = media if len(rows) == len(places) else media.rows(rows), [prompts[i] for i in rows]
            found[rows] = self(some, texts) if place < 0 else self._predicted(some, texts, place)
        return found

    def _predicted(self, media: Media, prompts: Sequence[str], place: int) -> Tensor:
        level = self.known.levels[place]
        read = features_of(self._own, media, prompts, self._network(place, media.tensor.device))
        scores = torch.from_numpy(level.predictor(read.double().cpu().numpy()))
        return scores.clamp(0, 1) if self.answers_probability else scores

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Prepare the verifier, and see that it is still the one that was learned of. UsageError: it is not."""
        known = self.known
        self._panel.prepare([*prompts, *known.reference.prompts], device)
        if device not in self._checked:
            check = Check(self.folder, IMAGES, (known.member,), known.reference, "learned of", COMMAND)
            check.refuse_change(self._panel, device)
            self._checked.add(device)

    def _network(self, place: int, device: torch.device) -> nn.Module | None:
        """The tuned copy of a level on a device; None where there is none."""
        level = self.known.levels[place]
        if level.network is None:
            return None
        if (place, device) not in self._networks:
            self._networks[place, device] = tuned(self._own.preview_network(device), level)
        return self._networks[place, device]

    @property
    def _own(self) -> Any:
        return self._panel.members[0].verifier

    @cached_property
    def _checked(self) -> set[torch.device]:
        return set()

    @cached_property
    def _networks(self) -> dict[tuple[int, torch.device], nn.Module]:
        return {}

    @cached_property
    def _read(self) -> tuple[Learned, str]:
        return read(Path(self.folder))

    @cached_property
    def _panel(self) -> Any:
        return panel([self.known.member], self.known.frames)


def tuned(network: nn.Module, level: PreviewLevel) -> nn.Module:
    """A copy of a network with the weights of a level."""
    made = copy.deepcopy(network)
    assert level.network is not None
    made.load_state_dict({k: v.to(made.state_dict()[k].dtype) for k, v in level.network.items()})
    return made.eval().requires_grad_(False)


def features_of(
    verifier: Any, media: Media, prompts: Sequence[str], network: nn.Module | None = None
) -> Tensor:
    """What a learned preview reads of images and prompts [n, F]: what the verifier offers, else its score.

    The first column is the score.
    network: a tuned copy of the verifier's, in its place.
    """
    offered = getattr(verifier, "preview_features", None)
    if offered is None:
        return torch.as_tensor(verifier(media, prompts), dtype=torch.float64).reshape(len(prompts), 1)
    found: Tensor = offered(media, prompts) if network is None else offered(media, prompts, network)
    return found
