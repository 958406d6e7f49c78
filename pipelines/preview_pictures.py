"""Pictures of clean estimates while candidates are under way, by the cheapest decoder that there is.

The pipeline decodes them as it decodes results, with something cheaper in place of its autoencoder: the small one that
the user gave; the pipeline's own, where that is small or there is none; else the affine map of `coarse_decoder`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from genscale.engine.ledger import Ledger
from genscale.media import Media
from genscale.media_items import IMAGE, VIDEO
from genscale.pipelines.coarse_decoder import CoarseDecoder, decoders_of
from genscale.pipelines.decode import Decoder
from genscale.pipelines.encoder_cache import MOST_ENCODED, Remembered
from genscale.pipelines.loop_noise import global_states, restore_global
from genscale.pipelines.output_kinds import possible_kinds
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.protocol.batches import Decode

FITTED = 4  # estimates that the autoencoder itself decodes at most, so that a map can be fitted (ours)
SMALL = "AutoencoderTiny"  # class of the small autoencoders of diffusers


class PreviewPictures:
    """What one call's previews are made with. small: an autoencoder in place of the pipeline's `vae`, or None.

    decode: of the search itself; what it decodes is learned from. ledger: `decodes` counts what an autoencoder decodes
    for previews, `seconds` has the time under "preview". A preview that cannot be made is left out, and so are all that
    would follow; with a warning where `small` was given.
    """

    def __init__(self, call: PipelineCall, decode: Decode, small: Any, ledger: Ledger) -> None:
        self.call, self._decode, self.small, self.ledger = call, decode, small, ledger
        own = decoders_of(call.pipe.components)
        self._whole = small is not None or _is_small(call, own)
        self._coarse, self._fitted = CoarseDecoder(own), 0
        self._decoder = Decoder(_apart(call) if small is not None else call, of_unfinished=True)
        self.possible = _possible(call) and (self._whole or bool(own))

    def decode(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        """As the search decodes, which is learned from."""
        if self._whole or not self.possible or self._coarse.full or latents.requires_grad:
            return self._decode(latents, prompts)
        with self._coarse.learning():
            return self._decode(latents, prompts)

    def picture(self, latents: Tensor, prompts: tuple[int, ...]) -> Media | None:
        """Images or videos, coarse ones, of clean estimates [n, *latent]; None where they cannot be made."""
        if not self.possible:
            return None
        device = self.call.latents.device
        before = global_states(device)
        try:
            with self.ledger.clock("preview"):
                media = self._made(latents.nan_to_num(), prompts)
        except Exception as error:
            self.possible = False
            if self.small is not None:
                warnings.warn(f"no previews are shown: their decoder fails ({error})", stacklevel=2)
            return None
        finally:
            restore_global(before, device)
        self.possible = media.kind in (IMAGE, VIDEO)
        return media if self.possible else None

    def _made(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        if self._whole:
            self.ledger.decodes += len(prompts)
            with _in_place_of_vae(self.call.pipe, self.small):
                return self._decoder.media(latents, prompts)
        self._learn(latents, prompts)
        with self._coarse.standing_in():
            return self._decoder.media(latents, prompts)

    def _learn(self, latents: Tensor, prompts: Sequence[int]) -> None:
        """Decode estimates, one at a time, until a map can be fitted; at most FITTED in all."""
        for i, prompt in enumerate(prompts):
            if self._coarse.enough or self._fitted >= FITTED:
                return
            self._fitted += 1
            self.ledger.decodes += 1
            with self._coarse.learning():
                self._decoder.media(latents[i : i + 1], (prompt,))


def _possible(call: PipelineCall) -> bool:
    """Whether the call makes images or videos, and its loop leaves the draws of noise to the scheduler."""
    kinds = possible_kinds(call.pipe)
    return bool(not kinds or kinds & {IMAGE, VIDEO}) and (call.loop is None or not call.loop.draws)


def _is_small(call: PipelineCall, own: Sequence[Any]) -> bool:
    """Whether decoding by the pipeline itself is cheap: by a small autoencoder, or of latents that are pixels."""
    if own:
        return all(type(model).__name__ == SMALL for model in own)
    return call.latents.ndim == 4 and call.latents.shape[1] in (1, 3)


def _apart(call: PipelineCall) -> PipelineCall:
    """The call with memory of its own for encoded images: another autoencoder encodes them otherwise."""
    other = copy.copy(call)
    other.encoder_cache = copy.copy(call.encoder_cache)
    other.encoder_cache.latents = Remembered(MOST_ENCODED)
    return other


@contextmanager
def _in_place_of_vae(pipe: Any, small: Any) -> Iterator[None]:
    """The pipeline with another `vae`; with its own where `small` is None. AttributeError: it has none."""
    if small is None:
        yield
        return
    own = pipe.vae
    pipe.__dict__["vae"] = small
    try:
        yield
    finally:
        pipe.__dict__["vae"] = own
