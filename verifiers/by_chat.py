"""What the verifiers that ask a vision-language model in words have in common: whom they ask, and how patiently."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch

from genscale.errors import UsageError
from genscale.pipelines.http_calls import Patience
from genscale.plugins.limits import COUNT, shown
from genscale.verifiers.answer_cache import USER, AnswerCache
from genscale.verifiers.chat import Asking, Chat, Question, Unanswered, Value
from genscale.verifiers.chat_endpoint import Endpoint, checked_url
from genscale.verifiers.chat_model import ChatModel, chat_model
from genscale.verifiers.checkpoints import check_settings
from genscale.verifiers.differentiable import LoadedPerDevice

MOST_NAMED = 2  # reasons that a warning lists


@dataclass(frozen=True, kw_only=True)
class ByChat(LoadedPerDevice[ChatModel]):
    """A model of transformers, loaded here; or a server with the chat API of OpenAI.

    url: of the server's API, such as http://localhost:8000/v1; None loads `checkpoint`.
    model: the server's name of the model; None: the only one that it has.
    key_from: name of the environment variable that holds the server's key. The key is written nowhere.
    at_once: requests to the server at the same time, at most.
    answer_timeout: seconds of one attempt of a request. answer_retries: further attempts after a time-out, a lost
        connection, or a status of a busy or broken server; waits double from 1 s, and are as long as Retry-After asks.
    temperature: of the server's answers; a model that is loaded here always gives its likeliest answer. max_tokens: of
        an answer. None leaves them to the server.
    checkpoint: Hugging Face id or folder of a transformers image-text model (safetensors).
    cache: folder that keeps answers by the content of their questions, so that nothing is asked twice; user: in the
        user's cache folder; None: no folder.
    device: where the loaded model runs; None: where the images are. dtype: None is bfloat16 on an accelerator, else
        float32. batch_size: questions to the loaded model at a time.
    """

    url: str | None = None
    model: str | None = None
    key_from: str | None = None
    at_once: int = 8
    answer_timeout: float = 120.0
    answer_retries: int = 5
    temperature: float | None = 0.0
    max_tokens: int | None = 512
    checkpoint: str = "Qwen/Qwen3-VL-2B-Instruct"
    cache: str | None = USER
    device: str | None = None
    dtype: str | None = None
    batch_size: int = field(default=4)

    kind: ClassVar[str]
    reads_prompts: ClassVar[bool] = True
    retries: ClassVar[int] = 0
    """Of a whole call by the engine: requests are tried again one by one."""

    def __post_init__(self) -> None:
        check_settings(self.dtype, self.batch_size)
        if self.url is not None:
            object.__setattr__(self, "url", checked_url(self.url))
        elif self.model is not None or self.key_from is not None:
            given = "model" if self.model is not None else "key_from"
            raise UsageError(
                f"{given} of {self.name} is a server's: give its url, too, or checkpoint instead."
            )
        for option, least in (("at_once", 1), ("answer_retries", 0), ("max_tokens", 1)):
            value = getattr(self, option)
            if value is not None and not least <= value <= COUNT.most:
                raise UsageError(
                    f"{option}={shown(value)} of {self.name} must be a whole number, {least} or more."
                )
        if not 0 < self.answer_timeout < float("inf"):
            raise UsageError(
                f"answer_timeout={shown(self.answer_timeout)} of {self.name} must be seconds above 0."
            )

    @property
    def name(self) -> str:
        """The name of its scores in results."""
        return self.kind

    @property
    def remote(self) -> bool:
        """Whether it asks a server."""
        return self.url is not None

    @property
    def backbone(self) -> str | None:
        """The model that judges."""
        return self.checkpoint if self.url is None else self.model or self.url

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model, or ask the server whether it is there. UsageError: it is not; no folder can be made."""
        self._cache.prepare()
        if self._endpoint is None:
            self.load(device)
        else:
            self._endpoint.prepare()

    def _ask(
        self, questions: Sequence[Question], read: Callable[[str], Value], device: torch.device
    ) -> list[Value | None]:
        """A value for each question; None, with one warning for all, where there is no answer that can be read."""
        found = Asking(self._chat(device), self._cache, read).values(questions)
        lost = Counter(f.reason for f in found if isinstance(f, Unanswered))
        if lost:
            named = "; ".join(f"{reason} ({n})" for reason, n in lost.most_common(MOST_NAMED))
            warnings.warn(
                f"{self.name}: {lost.total()} of {len(found)} questions have no answer, and their images no score: "
                f"{named}.",
                stacklevel=3,
            )
        return [None if isinstance(f, Unanswered) else f for f in found]

    def _chat(self, device: torch.device) -> Chat:
        if self._endpoint is not None:
            return self._endpoint
        return self._model(device).asked(self.max_tokens, self.batch_size)

    @cached_property
    def _endpoint(self) -> Endpoint | None:
        if self.url is None:
            return None
        patience = Patience(timeout=float(self.answer_timeout), retries=self.answer_retries)
        return Endpoint(
            self.url, self.model, self.key_from, self.at_once, patience, self.temperature, self.max_tokens
        )

    @cached_property
    def _cache(self) -> AnswerCache:
        return AnswerCache.of(self.cache)

    def _load_on(self, device: torch.device) -> ChatModel:
        dtype = getattr(torch, self.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
        return chat_model(self.checkpoint, device, dtype)
