"""Questions to a vision-language model, here or behind a server, and their answers as values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

from genscale.verifiers.answer_cache import AnswerCache, question_key

Value = TypeVar("Value")


@dataclass(frozen=True)
class Question:
    """One question. images: shown in this order, before the text. yes_no: the answer is P(yes) where the model can say
    it (genscale.verifiers.yes_no)."""

    text: str
    images: tuple[Image.Image, ...] = ()
    yes_no: bool = False


@dataclass(frozen=True)
class Unanswered:
    """Why a question has no answer. refused: the exception of a service that would refuse this one question again."""

    reason: str
    refused: Exception | None = None


class Chat(Protocol):
    """Who is asked. identity: plain values that decide its answers."""

    @property
    def identity(self) -> tuple[object, ...]: ...
    def answers(
        self, questions: Sequence[Question], readable: Callable[[str], bool]
    ) -> Iterator[tuple[int, str | Unanswered]]:
        """Index of a question and its answer, in any order, each once.

        readable: whether an answer has the form that was asked for. UsageError: no question can be answered.
        """


@dataclass
class Asking(Generic[Value]):
    """Questions whose answers are read as values.

    read: a value from the text of an answer; ValueError where it has not the form that was asked for. asked: how many
    questions went to the model, the others having been answered before.
    """

    chat: Chat
    cache: AnswerCache
    read: Callable[[str], Value]
    asked: int = 0

    def values(self, questions: Sequence[Question]) -> list[Value | Unanswered]:
        """A value for each question. Equal questions are asked once; an answer is kept as soon as it has come.

        UsageError: no question can be answered.
        """
        keys = [question_key(self.chat.identity, q.text, q.images, q.yes_no) for q in questions]
        found: dict[str, Value | Unanswered] = {}
        fresh: dict[str, Question] = {}
        for key, question in zip(keys, questions, strict=True):
            if key in found or key in fresh:
                continue
            text = self.cache.get(key)
            if text is not None and self._readable(text):
                found[key] = self.read(text)
            else:
                fresh[key] = question
        self.asked += len(fresh)
        names = list(fresh)
        for place, answer in self.chat.answers(list(fresh.values()), self._readable) if fresh else ():
            if isinstance(answer, str):
                self.cache.put(names[place], answer)
                found[names[place]] = self.read(answer)
            else:
                found[names[place]] = answer
        _raise_if_all_refused([found[name] for name in names])
        return [found[key] for key in keys]

    def _readable(self, text: str) -> bool:
        try:
            self.read(text)
        except ValueError:
            return False
        return True


def _raise_if_all_refused(answers: Sequence[Any]) -> None:
    """What a service refuses for every question is the request's fault, and no image's."""
    refused = [a.refused for a in answers if isinstance(a, Unanswered) and a.refused is not None]
    if refused and len(refused) == len(answers):
        raise refused[0]
