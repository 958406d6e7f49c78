"""CLAP: how well a sound fits its prompt, as the cosine of two embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, gcd
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.media import Media
from genscale.media_items import AUDIO
from genscale.verifiers.checkpoints import refusing, whole
from genscale.verifiers.differentiable import LoadedPerDevice, ModelSettings

REPOSITORY = "laion/clap-htsat-unfused"
ADVICE = "fetch it where there is a network, or give the folder of a ClapModel as checkpoint"
REMEMBERED = 4096  # prompts whose embeddings are kept


@dataclass(frozen=True)
class Clap(LoadedPerDevice["_Towers"], ModelSettings):
    """Cosine of the CLAP embeddings of sound and prompt, -1 to 1.

    Wu et al. 2023, "Large-Scale Contrastive Language-Audio Pretraining" (arXiv 2211.06687). The sound's channels are
    averaged and resampled to the checkpoint's rate (48 kHz). One longer than the checkpoint hears (10 s) is cut into as
    few evenly spaced pieces as cover it, and the mean of their embeddings counts; a shorter one is repeated, as in
    training. Nothing is cropped at random, so the same sound has the same score. Only sounds of one prompt, by one
    checkpoint, compare.

    Blind spots: the order of events, counts, words that are spoken; stereo; audio quality; what is above half of the
    pipeline's sampling rate is missing for it, too. AudioLDM2 listens to a CLAP itself: hold out another score there.
    Not differentiable.

    checkpoint: Hugging Face id or folder of a transformers ClapModel with its processor.
    device, dtype, batch_size: as for `Clip`; batch_size counts pieces of sounds.
    """

    checkpoint: str = REPOSITORY

    name: ClassVar[str] = "clap"
    reads_prompts: ClassVar[bool] = True
    judges: ClassVar[tuple[str, ...]] = (AUDIO,)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model before anything is spent. UsageError: it is missing."""
        self.load(device)

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """Scores [n], float32."""
        if len(media) != len(prompts):
            raise ValueError(f"{len(media)} sounds and {len(prompts)} prompts: give one for each.")
        towers = self._model(media.device)
        assert media.sampling_rate is not None
        with torch.no_grad():
            heard = towers.sounds(media.waveforms, media.sampling_rate, self.batch_size)
            return (heard * towers.texts(prompts)).sum(-1)

    @property
    def backbone(self) -> str:
        """Its checkpoint."""
        return self.checkpoint

    def _load_on(self, device: torch.device) -> _Towers:
        dtype = getattr(torch, self.dtype or "float32")
        key = (self.checkpoint, device, dtype)
        found = _loaded.get(key)
        if found is None:
            with torch.inference_mode(False):
                found = _loaded[key] = _load(self.checkpoint, device, dtype)
        return found


@dataclass(eq=False)
class _Towers:
    """Unit embeddings of sounds and texts."""

    module: Any
    features: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    _texts: dict[str, Tensor] = field(default_factory=dict)

    def sounds(self, waveforms: Tensor, rate: int, batch_size: int) -> Tensor:
        """[n, width] of waveforms [n, channels, samples]."""
        mono = waveforms.detach().float().mean(1).cpu().numpy()
        cut = [pieces(resampled(x, rate, self.features.sampling_rate), self._longest) for x in mono]
        flat = [piece for some in cut for piece in some]
        embeddings = [self._embedded(flat[i : i + batch_size]) for i in range(0, len(flat), batch_size)]
        parts = torch.split(torch.cat(embeddings), [len(some) for some in cut])
        return F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)

    @property
    def _longest(self) -> int:
        return int(self.features.nb_max_samples)

    def _embedded(self, sounds: Sequence[np.ndarray]) -> Tensor:
        rate = self.features.sampling_rate
        found = self.features(list(sounds), sampling_rate=rate, return_tensors="pt")
        # No piece is longer than the model hears; the extractor says so of one at random, as training needs it.
        longer = torch.zeros(len(sounds), 1, dtype=torch.bool, device=self.device)
        mel = found["input_features"].to(self.device, self.dtype)
        return _unit(self.module.get_audio_features(input_features=mel, is_longer=longer))

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[n, width]; a text is encoded once."""
        known = {p: self._texts[p] for p in prompts if p in self._texts}
        fresh = [p for p in dict.fromkeys(prompts) if p not in known]
        if fresh:
            length = (
                self.module.config.text_config.max_position_embeddings - 2
            )  # RoBERTa counts positions from 2
            tokens = self.tokenizer(
                fresh, padding=True, truncation=True, max_length=min(length, 512), return_tensors="pt"
            ).to(self.device)
            found = self.module.get_text_features(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            )
            known |= zip(fresh, _unit(found), strict=True)
        self._texts |= known
        while len(self._texts) > REMEMBERED:
            del self._texts[next(iter(self._texts))]
        return torch.stack([known[p] for p in prompts])


_loaded: WeakValueDictionary[tuple[str, torch.device, torch.dtype], _Towers] = WeakValueDictionary()


def _load(checkpoint: str, device: torch.device, dtype: torch.dtype) -> _Towers:
    from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

    folder = Path(checkpoint).expanduser()
    where = str(folder) if folder.is_dir() else checkpoint
    if not folder.is_dir() and (folder.is_absolute() or checkpoint.startswith((".", "~"))):
        raise UsageError(f"there is no folder '{checkpoint}' for clap: give a folder or a Hugging Face id.")
    with refusing(f"CLAP '{checkpoint}'", ADVICE):
        module = whole(ClapModel, where, checkpoint, "CLAP", ADVICE)
        features = AutoFeatureExtractor.from_pretrained(where)
        tokenizer = AutoTokenizer.from_pretrained(where)
    return _Towers(
        module.eval().requires_grad_(False).to(device=device, dtype=dtype), features, tokenizer, device, dtype
    )


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples [n] at another rate, by a polyphase filter, float32."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly  # takes long to import

    common = gcd(rate, wanted)
    return np.asarray(resample_poly(samples, wanted // common, rate // common), dtype=np.float32)


def pieces(samples: np.ndarray, longest: int) -> list[np.ndarray]:
    """As few pieces of at most `longest` samples as cover the sound, evenly spaced from its beginning to its end."""
    count = max(ceil(len(samples) / longest), 1)
    if count == 1:
        return [samples]
    starts = np.linspace(0, len(samples) - longest, count).round().astype(int)
    return [samples[start : start + longest] for start in starts]


def _unit(output: Any) -> Tensor:
    embedding: Tensor = getattr(output, "pooler_output", output)  # transformers 4 gives the embedding itself
    return F.normalize(embedding.float(), dim=-1)
