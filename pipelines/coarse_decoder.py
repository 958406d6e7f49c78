"""A stand-in for a pipeline's decoder: an affine map of latent channels to pixels, the same for each place.

Its pictures have a pixel for each place of the latents, or several where that would be a picture of few pixels.
It is fitted to what the decoder itself made. The pipeline unpacks and rescales its latents before it calls `decode`, so
the map sees them as images [n, channels, h, w] or videos [n, channels, frames, h, w], whatever the pipeline's layout.
That such a map gives recognisable pictures is known of Stable Diffusion's latents (3 colours of 4 channels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, pixel_shuffle, pixel_unshuffle

from genscale.numerics.affine_map import AffineMap

POINTS = 4096  # of one decoding, at most, evenly spaced
DECODINGS = 8  # that are learned from, the first ones
ENOUGH = 8  # points for each weight of a colour
PENALTY = 0.02  # where points are fewer (ours: on clips of shapes-video it explained most)
SEVERAL = 2  # decodings, at least: one may be of nearly one colour
SIDE = 64  # pixels of the longest side of a picture, at least, if the decoder's own has as many

Decode = Callable[..., Any]


def decoders_of(components: Mapping[str, Any]) -> list[nn.Module]:
    """The autoencoders among a pipeline's components."""
    models = {id(m): m for m in components.values() if isinstance(m, nn.Module)}
    return [
        m for m in models.values() if all(callable(getattr(m, name, None)) for name in ("encode", "decode"))
    ]


class CoarseDecoder:
    """What takes the place of `decode` of each model, once it was learned. models: a pipeline's autoencoders."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models
        self._known: dict[int, _Learned] = {}

    @property
    def enough(self) -> bool:
        """Whether it was learned of points enough."""
        return bool(self._known) and all(one.enough for one in self._known.values())

    @property
    def full(self) -> bool:
        """Whether more would not be learned from."""
        return bool(self._known) and all(one.decodings >= DECODINGS for one in self._known.values())

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Learn from every `decode` inside."""

        def watched(model: nn.Module, decode: Decode) -> Decode:
            def run(*args: Any, **kwargs: Any) -> Any:
                made = decode(*args, **kwargs)
                self._known.setdefault(id(model), _Learned()).see(_latents(args, kwargs), made)
                return made

            return run

        with self._replaced(watched):
            yield

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Map instead of every `decode` inside. KeyError: of a model that was not learned from."""

        def mapped(model: nn.Module, decode: Decode) -> Decode:
            return lambda *args, **kwargs: self._known[id(model)](_latents(args, kwargs))

        with self._replaced(mapped):
            yield

    @contextmanager
    def _replaced(self, make: Callable[[nn.Module, Decode], Decode]) -> Iterator[None]:
        before = [(model, model.__dict__.get("decode")) for model in self.models]
        for model in self.models:
            decode: Any = model.decode
            model.__dict__["decode"] = make(model, decode)
        try:
            yield
        finally:
            for model, own in before:
                del model.__dict__["decode"]
                if own is not None:
                    model.__dict__["decode"] = own


class _Learned:
    """What one model's `decode` made, and the map that is nearest to it."""

    def __init__(self) -> None:
        self.decodings = 0
        self._points: list[tuple[Tensor, Tensor]] = []
        self._map: AffineMap | None = None
        self._dtype, self._as_tuple, self._within = torch.float32, True, 1

    @property
    def enough(self) -> bool:
        return self.decodings >= SEVERAL and not self._few

    @property
    def _few(self) -> bool:
        return sum(len(x) for x, _ in self._points) < ENOUGH * (self._points[0][0].shape[1] + 1)

    def see(self, latents: Tensor, made: Any) -> None:
        """Learn from one decoding. ValueError: it did not make an image or video of each row of latents."""
        if self.decodings >= DECODINGS:
            return
        self._as_tuple = isinstance(made, tuple)
        pixels = made[0] if self._as_tuple else made.sample
        self._dtype = pixels.dtype
        if pixels.ndim != latents.ndim or pixels.ndim not in (4, 5) or len(pixels) != len(latents):
            raise ValueError(f"pixels {list(pixels.shape)} do not lie over latents {list(latents.shape)}")
        self._within = within = _pixels_within(latents, pixels)
        coarse = at_resolution(pixels.detach(), latents, within)
        coarse = pixel_unshuffle(coarse.movedim(1, -3), within).movedim(-3, 1)
        x, y = (v.detach().float().movedim(1, -1).flatten(0, -2) for v in (latents, coarse))
        apart = max(1, -(-len(x) // POINTS))
        self._points.append((x[::apart].cpu(), y[::apart].cpu()))
        self.decodings, self._map = self.decodings + 1, None

    def __call__(self, latents: Tensor) -> Any:
        from diffusers.models.autoencoders.vae import DecoderOutput

        if self._map is None:
            given, wanted = (torch.cat(part) for part in zip(*self._points, strict=True))
            self._map = AffineMap.fitted(given, wanted, PENALTY if self._few else 0.0)
        made = pixel_shuffle(self._map(latents).movedim(1, -3), self._within).movedim(-3, 1).to(self._dtype)
        return (made,) if self._as_tuple else DecoderOutput(sample=made)


def _pixels_within(latents: Tensor, pixels: Tensor) -> int:
    """How many pixels of a picture each place of the latents gets along a side."""
    side, most = (
        max(latents.shape[-2:]),
        min(p // q for p, q in zip(pixels.shape[-2:], latents.shape[-2:], strict=True)),
    )
    return max(1, min(-(-SIDE // side), most))


def at_resolution(pixels: Tensor, latents: Tensor, within: int = 1) -> Tensor:
    """Means of pixels [n, k, (frames,) h, w] over what each place of latents [n, c, (frames,) h, w] stands for.

    within: along height and width each place is divided into so many. Where a video has 1 + k (f - 1) frames for f
    frames of latents, the first stands for itself, as in causal decoders.
    """
    high, wide = (within * side for side in latents.shape[-2:])
    if pixels.ndim == 4:
        return at_resolution(pixels[:, :, None], latents[:, :, None], within)[:, :, 0]
    frames, more, pixels = latents.shape[2], pixels.shape[2] - 1, pixels.float()
    if 1 < frames <= more and more % (frames - 1) == 0:
        first = adaptive_avg_pool3d(pixels[:, :, :1], (1, high, wide))
        return torch.cat([first, adaptive_avg_pool3d(pixels[:, :, 1:], (frames - 1, high, wide))], dim=2)
    return adaptive_avg_pool3d(pixels, (frames, high, wide))


def _latents(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The first argument of `decode`, however it is named."""
    found = args[0] if args else next(iter(kwargs.values()))
    if not isinstance(found, Tensor):
        raise ValueError("a decoder was called without latents")
    return found
