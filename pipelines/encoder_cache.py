"""What a pipeline's call finds out before its loop, to be found out once however often the pipeline is called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Forward = Callable[..., Any]


class EncoderCache:
    """Answers of the prompt and image encoders, by the content of their arguments. prompts: those of the pipeline's own
    method that calls them. device: the pipeline's execution device, if it was looked up."""

    def __init__(self) -> None:
        self.prompts = PromptCache()
        self.device: list[Any] = []
        self._known: dict[tuple[str, str], Any] = {}

    def __call__(self, name: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = (name, _told_by((args, kwargs)))
        if key not in self._known:
            self._known[key] = forward(*args, **kwargs)
        return self._known[key]


class PromptCache:
    """Answers of a pipeline's `encode_prompt`, which tokenizes and looks for its models' device besides encoding.

    GatherCache only where the call is told by its arguments and leaves nothing on the pipeline; given again only while
    nobody has written into the answer.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, list[tuple[Tensor, int]]]] = {}

    def __call__(self, pipe: Any, encode: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _plain((args, kwargs)):
            return encode(*args, **kwargs)
        key = _told_by((args, kwargs))
        answer, tensors = self._known.get(key, (None, []))
        if tensors and all(t._version == version for t, version in tensors):
            return _copied(answer)
        before = dict(pipe.__dict__)
        answer = encode(*args, **kwargs)
        made = list(_tensors(answer))
        if _same(before, pipe.__dict__) and not any(t.is_inference() for t in made):
            self._known[key] = (_copied(answer), [(t, t._version) for t in made])
        return answer


def _plain(value: Any) -> bool:
    """Whether `_digest` tells a value by its content."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, str | int | float | Tensor | torch.device | torch.dtype)


def _copied(answer: Any) -> Any:
    """Lists anew, since some pipelines write into those they are given."""
    if type(answer) in (list, tuple):
        return type(answer)(_copied(a) for a in answer)
    return answer


def _tensors(answer: Any) -> Iterator[Tensor]:
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, list | tuple):
        for part in answer:
            yield from _tensors(part)


def _same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return before.keys() == after.keys() and all(after[k] is v for k, v in before.items())


def _told_by(arguments: Any) -> str:
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
