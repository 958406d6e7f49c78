"""Caches for what a pipeline computes before its loop, since a search calls the pipeline several times."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genscale.pipelines.argument_values import recollected, tensors_of

Forward = Callable[..., Any]

MOST_ENCODED = 2**28  # bytes of encoded input images that a search remembers


class EncoderCache:
    """Outputs of the prompt and image encoders, by the content of their arguments.

    A search calls its pipeline again for each group of candidates that is decoded, and the pipeline encodes prompts,
    input images and masks anew in every call.

    latents: what autoencoders made of input images. prompts: results of the pipeline's `encode_prompt`. device: the
    pipeline's execution device, once looked up. loop_modules: namespaces of the modules whose code runs the loop, once
    a probe has seen them. guiders: what stands for guiders of a modular pipeline, by component name.
    """

    def __init__(self) -> None:
        self.prompts, self._outputs, self.latents = PromptCache(), Remembered(), Remembered(MOST_ENCODED)
        self.device: list[Any] = []
        self.loop_modules: list[dict[str, Any]] = []
        self.guiders: dict[str, Any] = {}

    def __call__(self, name: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = self._outputs.key(name, args, kwargs)
        found = self._outputs.get(key)
        if found is None:
            found = forward(*args, **kwargs)
            self._outputs.keep(key, found)
        return found

    def encode(
        self,
        name: str,
        encode: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        draws: Callable[[], int],
    ) -> Any:
        """What an autoencoder makes of an input image; a distribution of latents, from which the pipeline draws itself.

        draws: how many random draws were made so far. What an `encode` drew itself is not remembered.
        """
        key = self.latents.key(name, args, kwargs)
        found = self.latents.get(key)
        if found is None:
            before = draws()
            found = encode(*args, **kwargs)
            if draws() == before:
                self.latents.keep(key, found)
        return found


class PromptCache:
    """Results of a pipeline's `encode_prompt`, which also tokenizes and looks up devices.

    Cached only if the call changes nothing on the pipeline.
    """

    def __init__(self) -> None:
        self._results = Remembered()

    def __call__(self, pipe: Any, encode: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = self._results.key("", args, kwargs)
        found = self._results.get(key)
        if found is None:
            before = dict(pipe.__dict__)
            found = encode(*args, **kwargs)
            if _same(before, pipe.__dict__):
                self._results.keep(key, found)
        return found

    def before(self, pipe: Any, begins: Callable[[], bool]) -> Forward:
        """The pipeline's `encode_prompt` with this cache, which is used where `begins` says so."""
        encode: Forward = pipe.encode_prompt

        @functools.wraps(encode)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            return self(pipe, encode, args, kwargs) if begins() else encode(*args, **kwargs)

        return encode_prompt


class Remembered:
    """Results of calls by the content of their arguments, reused only while none of their tensors was written to.

    Lists and dictionaries are handed out as copies, since pipelines write into those they are given.

    most: bytes of all results together, at most; those that were kept first are dropped for later ones. None: all are
    kept.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self._known: dict[tuple[str, str], tuple[Any, list[tuple[Tensor, int]]]] = {}

    @staticmethod
    def key(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str] | None:
        """None for arguments that cannot be hashed by their content."""
        return (name, _content_hash((args, kwargs))) if _hashable((args, kwargs)) else None

    def get(self, key: tuple[str, str] | None) -> Any:
        result, tensors = (None, []) if key is None else self._known.get(key, (None, []))
        unchanged = tensors and all(t._version == version for t, version in tensors)
        return recollected(result) if unchanged else None

    def keep(self, key: tuple[str, str] | None, result: Any) -> None:
        made = tensors_of(result)
        if key is not None and not any(t.is_inference() for t in made):  # these have no version
            self._known[key] = (recollected(result), [(t, t._version) for t in made])
            while self.most is not None and len(self._known) > 1 and self._bytes() > self.most:
                del self._known[next(iter(self._known))]

    def _bytes(self) -> int:
        return sum(t.nbytes for _, tensors in self._known.values() for t, _ in tensors)


def _hashable(value: Any) -> bool:
    """Whether `_digest` hashes a value by its content."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _hashable(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_hashable(v) for v in value)
    return value is None or isinstance(value, str | int | float | Tensor | torch.device | torch.dtype)


def _same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return before.keys() == after.keys() and all(after[k] is v for k, v in before.items())


def _content_hash(arguments: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    _digest(arguments, digest)
    return digest.hexdigest()


def _dense(value: Tensor) -> Tensor:
    """A copy as one row in memory: a tensor of one value may have a stride of 0."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)


def _digest(value: Any, digest: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(repr((tuple(value.shape), value.dtype, value.device)).encode())
        digest.update(_dense(value).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for k in sorted(value):
            digest.update(str(k).encode())
            _digest(value[k], digest)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for v in value:
            _digest(v, digest)
    else:
        digest.update(repr(value).encode())
