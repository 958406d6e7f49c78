"""LAION's aesthetic predictors: linear layers on CLIP's image embedding."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.verifiers.affine import folded
from genscale.verifiers.clip import Clip
from genscale.verifiers.differentiable import Differentiable, ModelSettings

LAYERS = {"v1": (0,), "v2": (0, 2, 4, 6, 7)}  # indices of the linear layers; dropout layers are between
FILES = {"v1": "sa_0_4_vit_l_14_linear.pth", "v2": "sac+logos+ava1-l14-linearMSE.pth"}
SOURCES = {"v1": "LAION-AI/aesthetic-predictor", "v2": "christophschuhmann/improved-aesthetic-predictor"}
HUB = {  # copies of the heads on Hugging Face: repository, file
    "v1": (("shunk031/aesthetics-predictor-v1-vit-large-patch14", "model.safetensors"),),
    "v2": (
        ("trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth"),
        ("camenduru/improved-aesthetic-predictor", "sac+logos+ava1-l14-linearMSE.pth"),
        ("shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE", "model.safetensors"),
    ),
}
_PLACE = re.compile(r"(?:layers\.|predictor\.)?(?:(\d+)\.)?(weight|bias)")


@dataclass(frozen=True)
class Aesthetic(ModelSettings, Differentiable):
    """How much people would like the look of an image, about 1 to 10, whatever the prompt.

    Schuhmann et al. 2022, LAION-5B (arXiv 2210.08402). v1: one linear layer on the unit embedding of CLIP
    ViT-L/14, typical 3 to 7; v2: five linear layers without activations between, typical 4 to 7, above 6
    good. So both are affine, and computed as one vector and one number. For videos the mean over frames.

    Blind spots: does not read the prompt, and used alone lowers how well images follow it; prefers
    painterly, saturated images; is linear in CLIP's embedding, so it is easily over-optimised.

    version: "v1" or "v2" of the head.
    head: file of the head (.pth, .safetensors). Where None: the file that the environment variable
        GENSCALE_AESTHETIC_V1 or GENSCALE_AESTHETIC_V2 names, else a copy on the hub.
    clip, clip_pretrained, backend, device, dtype, batch_size: as for `Clip`; weights are shared with it.
    """

    version: str = "v2"
    head: str | None = None
    clip: str = "ViT-L-14"
    clip_pretrained: str | None = "openai"
    backend: str | None = None

    name: ClassVar[str] = "aesthetic"
    reads_prompts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.version not in LAYERS:
            raise UsageError(f"aesthetic version '{self.version}' is unknown: choose {' or '.join(LAYERS)}.")
        self._clip  # noqa: B018  refuses its settings now

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        weight, bias = self._head  # first, since its file may be missing
        embeddings = self._clip.embed(pixels)
        if weight.numel() != embeddings.shape[-1]:
            raise UsageError(
                f"the aesthetic head reads embeddings of {weight.numel()} numbers, and those of CLIP "
                f"'{self.clip}' have {embeddings.shape[-1]}: give the CLIP that the head was made for."
            )
        scores = embeddings @ weight.to(embeddings) + bias
        return scores.flatten(1).mean(1) if scores.ndim > 1 else scores

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load head and CLIP. UsageError: one is missing, or they do not fit together."""
        with torch.no_grad():
            self.score_tensor(torch.full((1, 3, 64, 64), 0.5, device=device))

    @property
    def backbone(self) -> str:
        """That of its CLIP."""
        return self._clip.backbone

    def load(self, device: str | torch.device = "cpu") -> None:
        """Fetch and load everything now, for images on `device`: what is missing is refused here."""
        self._head  # noqa: B018
        self._clip.load(device)

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self.clip, self.clip_pretrained, self.backend, **self.model_settings)

    @cached_property
    def _head(self) -> tuple[Tensor, float]:
        path = self.head or os.environ.get(f"GENSCALE_AESTHETIC_{self.version.upper()}")
        with torch.inference_mode(False), torch.no_grad():
            return fold(Path(path).expanduser() if path else _from_hub(self.version), self.version)


def fold(path: Path, version: str) -> tuple[Tensor, float]:
    """The head in a file as one affine map, in float64: weight [width] and bias."""
    if not path.is_file():
        raise UsageError(f"there is no aesthetic head '{path}': give its file as head.")
    try:
        layers = _layers(path)
        if tuple(layers) != LAYERS[version]:
            raise UsageError(
                f"'{path}' has linear layers at {list(layers)} and the aesthetic head {version} at "
                f"{list(LAYERS[version])}: give {FILES[version]} (heads with activations are not read)."
            )
        return folded(layers)
    except UsageError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {shorten(str(error), 200)}"
        raise UsageError(f"'{path}' is not an aesthetic head ({reason}): give {FILES[version]}.") from None


def _layers(path: Path) -> dict[int, dict[str, Tensor]]:
    """Weights and biases of the linear layers in a file, by index and in order; other weights are not read."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys() if _PLACE.fullmatch(key)}  # noqa: SIM118
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if match := _PLACE.fullmatch(key):
            layers.setdefault(int(match[1] or 0), {})[match[2]] = value.double()
    return dict(sorted(layers.items()))


def _from_hub(version: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    reason = ""
    for local in (True, False):  # the local cache before the network
        for repository, file in HUB[version]:
            try:
                return Path(hf_hub_download(repository, file, local_files_only=local))
            except Exception as error:
                reason = f"{type(error).__name__} at {repository}"
                if not local and isinstance(error, LocalEntryNotFoundError):
                    break  # no network: the others would time out, too
    raise UsageError(
        f"the aesthetic head {version} cannot be fetched ({reason}): download {FILES[version]} of "
        f"{SOURCES[version]} from GitHub and give it as head or in GENSCALE_AESTHETIC_{version.upper()}."
    )
