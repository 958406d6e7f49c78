"""A vision-language model behind any server with the chat API of OpenAI (vLLM, SGLang, llama.cpp, Ollama, OpenAI)."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from genscale.errors import UsageError
from genscale.pipelines.http_calls import (
    NoJson,
    Patience,
    RemoteError,
    get_json,
    host_of,
    key_header,
    post_json,
)
from genscale.pipelines.remote_failures import remote_failure
from genscale.plugins.limits import shown
from genscale.verifiers.chat import Question, Unanswered
from genscale.verifiers.yes_no import with_probabilities

_PATH = "/chat/completions"
AGAIN = 2  # further questions after an answer that has not the form that was asked for
ONE_QUESTION = (400, 413, 422)  # statuses that may be about one image, such as a filter of contents
NOT_THERE = (404, 405)
ALTERNATIVES = 20  # of a first token whose probabilities are asked for; the most that OpenAI gives
NOT_SO = (
    "That is not the form that was asked for. Answer once more, in exactly that form and with nothing else."
)


@dataclass(frozen=True)
class Endpoint:
    """A server that is asked in several threads.

    url: of its API, such as "http://localhost:8000/v1". model: None is the only one that it has. key_from: name of the
    environment variable that holds the key. at_once: requests at the same time, at most. temperature, max_tokens: of
    the answers; None leaves them to the server.
    """

    url: str
    model: str | None = None
    key_from: str | None = None
    at_once: int = 8
    patience: Patience = field(default_factory=Patience)
    temperature: float | None = 0.0
    max_tokens: int | None = 512

    @property
    def identity(self) -> tuple[object, ...]:
        return ("endpoint", self.url, self.named, self.temperature, self.max_tokens)

    @cached_property
    def named(self) -> str:
        """The model. UsageError: it is not given, and the server does not have exactly one."""
        if self.model is not None:
            return self.model
        models = self._models()
        if len(models) != 1:
            had = f"it has {', '.join(models[:5])}" if models else "it does not say which it has"
            raise UsageError(f"no model of {host_of(self.url)} is named, and {had}: give model=NAME.")
        return models[0]

    def prepare(self) -> None:
        """UsageError: the key is not set, or the server cannot be reached or refuses it."""
        key_header(self.key_from, self.url)
        if self.model is None:
            self.named  # noqa: B018  asks the server
        else:
            self._models()

    def answers(
        self, questions: Sequence[Question], readable: Callable[[str], bool]
    ) -> Iterator[tuple[int, str | Unanswered]]:
        """As `Chat.answers`; `at_once` questions at a time."""
        headers, model, ended = key_header(self.key_from, self.url), self.named, threading.Event()
        pool = ThreadPoolExecutor(self.at_once, thread_name_prefix="genscale question")
        try:
            work = {
                pool.submit(self._answer, q, model, headers, readable, ended): i
                for i, q in enumerate(questions)
            }
            for future in as_completed(work):
                yield work[future], future.result()
        finally:  # also where one of them raised: the others are neither begun nor tried again
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _answer(
        self,
        question: Question,
        model: str,
        headers: Mapping[str, str],
        readable: Callable[[str], bool],
        ended: threading.Event,
    ) -> str | Unanswered:
        body = self._body(question, model)

        def pause(seconds: float) -> None:
            if ended.wait(seconds):
                raise RemoteError("the search has ended.")

        for _ in range(1 + AGAIN):
            try:
                text = _text(post_json(self.url + _PATH, body, headers, self.patience, pause), question)
            except NoJson:
                text = None
            except RemoteError as error:
                if error.status in NOT_THERE:
                    raise RemoteError(
                        f"{error} Is url the address of its API, which often ends in /v1?"
                    ) from None
                if error.status not in ONE_QUESTION:
                    raise
                return Unanswered(str(error).rstrip("."), error)
            except OSError as error:  # time-outs, lost connections and statuses, after all attempts
                return Unanswered(remote_failure(error) or type(error).__name__)
            if text is not None and readable(text):
                return text
            if text and not question.yes_no:
                said = {"role": "assistant", "content": text[:2000]}
                body = {**body, "messages": [body["messages"][0], said, {"role": "user", "content": NOT_SO}]}
        return Unanswered("no answer of the form that was asked for")

    def _body(self, question: Question, model: str) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": _data_url(i)}} for i in question.images]
        words = {"type": "text", "text": question.text}
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": [*parts, words] if parts else question.text}],
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if question.yes_no:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        return body

    def _models(self) -> list[str]:
        """Names of the server's models; none where it does not tell."""
        try:
            headers = key_header(self.key_from, self.url)
            headers = key_header(self.key_from, self.url)
            found = get_json(self.url + "/models", headers, Patience(timeout=10.0, retries=1))
            return [str(m["id"]) for m in found["data"]]
        except RemoteError as error:
            if error.status in (401, 403):
                raise
        except OSError as error:
            raise UsageError(
                f"{host_of(self.url)} cannot be asked ({remote_failure(error) or error}): start the server, or "
                "correct url."
            ) from None
        except (KeyError, TypeError):
            pass
        return []


def checked_url(url: str) -> str:
    """The address of an API without its last parts. UsageError: it is none, or has a password in it."""
    found = urlsplit(url)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise UsageError(f"url={shown(url)} must be an address that begins with http:// or https://.")
    if found.username is not None or found.password is not None or found.query:
        raise UsageError(
            f"url of {found.hostname} holds a name, a password or a query, which would be stored: give the key by "
            "key_from=VARIABLE."
        )
    return url.rstrip("/").removesuffix(_PATH)


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _text(answer: Any, question: Question) -> str | None:
    """The text of a server's answer, of yes and no with the alternatives of its first token; None without one."""
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"]
    except (KeyError, TypeError, IndexError):
        return None
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    if not isinstance(content, str):
        return None
    if not question.yes_no:
        return content
    try:
        top = {str(t["token"]): float(t["logprob"]) for t in choice["logprobs"]["content"][0]["top_logprobs"]}
    except (KeyError, TypeError, IndexError, ValueError):
        return content
    return with_probabilities(content, top)
