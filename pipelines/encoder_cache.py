"""Caches for what a pipeline computes before its loop, since a search calls the pipeline several times."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Forward = Callable[..., Any]


class EncoderCache:
    """Outputs of the prompt and image encoders, by the content of their arguments.

    prompts: results of the pipeline's `encode_prompt`. device: the pipeline's execution device, once looked up.
    loop_modules: namespaces of the modules whose code runs the loop, once a probe has seen them. guiders: what stands
    for guiders of a modular pipeline, by component name.
    """

    def __init__(self) -> None:
        self.prompts = PromptCache()
        self.device: list[Any] = []
        self.loop_modules: list[dict[str, Any]] = []
        self.guiders: dict[str, Any] = {}
        self._known: dict[tuple[str, str], Any] = {}

    def __call__(self, name: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = (name, _content_hash((args, kwargs)))
        if key not in self._known:
            self._known[key] = forward(*args, **kwargs)
        return self._known[key]


class PromptCache:
    """Results of a pipeline's `encode_prompt`, which also tokenizes and looks up devices.

    Cached only if the arguments can be hashed by content and the call changes nothing on the pipeline; reused only
    while no result tensor was written to.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, list[tuple[Tensor, int]]]] = {}

    def __call__(self, pipe: Any, encode: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _hashable((args, kwargs)):
            return encode(*args, **kwargs)
        key = _content_hash((args, kwargs))
        result, tensors = self._known.get(key, (None, []))
        if tensors and all(t._version == version for t, version in tensors):
            return _copied(result)
        before = dict(pipe.__dict__)
        result = encode(*args, **kwargs)
        made = list(_tensors(result))
        if _same(before, pipe.__dict__) and not any(t.is_inference() for t in made):
            self._known[key] = (_copied(result), [(t, t._version) for t in made])
        return result

    def before(self, pipe: Any, begins: Callable[[], bool]) -> Forward:
        """The pipeline's `encode_prompt` with this cache, which is used where `begins` says so."""
        encode: Forward = pipe.encode_prompt

        @functools.wraps(encode)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            return self(pipe, encode, args, kwargs) if begins() else encode(*args, **kwargs)

        return encode_prompt


def _hashable(value: Any) -> bool:
    """Whether `_digest` hashes a value by its content."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _hashable(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_hashable(v) for v in value)
    return value is None or isinstance(value, str | int | float | Tensor | torch.device | torch.dtype)


def _copied(result: Any) -> Any:
    """Copies of lists, since some pipelines write into those they are given."""
    if type(result) in (list, tuple):
        return type(result)(_copied(a) for a in result)
    return result


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for part in result:
            yield from _tensors(part)


def _same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return before.keys() == after.keys() and all(after[k] is v for k, v in before.items())


def _content_hash(arguments: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    _digest(arguments, digest)
    return digest.hexdigest()


def _digest(value: Any, digest: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(repr((tuple(value.shape), value.dtype, value.device)).encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
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
