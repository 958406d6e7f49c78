"""Answers of vision-language models on disk, by the content of what was asked: nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from genscale.errors import UsageError
from genscale.storage.durable_files import save_bytes, stored
from genscale.storage.user_cache import user_cache

USER = "user"
"""Says that answers are kept in the user's cache folder."""
VERSION = 1  # of what a question's digest covers; another one finds no earlier answer


@dataclass(frozen=True)
class AnswerCache:
    """A folder with one file for each answer. folder: None keeps nothing."""

    folder: Path | None

    @staticmethod
    def of(setting: str | None) -> AnswerCache:
        """For the option `cache` of a verifier: USER, a folder, or None for no cache."""
        if setting is None:
            return AnswerCache(None)
        return AnswerCache(user_cache("answers") if setting == USER else Path(setting).expanduser())

    def prepare(self) -> None:
        """See whether the folder is there or could be made; nothing is made before there is an answer. UsageError."""
        if self.folder is None:
            return
        near = next(place for place in (self.folder, *self.folder.absolute().parents) if place.exists())
        if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
            why = "is no folder" if not near.is_dir() else "cannot be written to"
            raise UsageError(
                f"answers cannot be kept in '{self.folder}' ('{near}' {why}): give another folder as cache, or "
                "cache=none."
            )

    def get(self, key: str) -> str | None:
        """The answer under a key; None without one, also where its file is damaged."""
        if self.folder is None:
            return None
        try:
            found = json.loads(stored(self._place(key)))
            answer = found["answer"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return answer if isinstance(answer, str) else None

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; its file is there whole or not at all. UsageError: it cannot be written."""
        if self.folder is None:
            return
        place = self._place(key)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            save_bytes(place, json.dumps({"answer": answer}).encode(), sync_name=False)
        except OSError as error:
            raise UsageError(
                f"an answer cannot be kept in '{self.folder}' ({error.strerror}): give another folder as cache, or "
                "cache=none."
            ) from None

    def _place(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"


def question_key(who: Sequence[object], text: str, images: Sequence[Image.Image], yes_no: bool) -> str:
    """A digest of who is asked (plain values), the text, every pixel of the images, and the form of the answer."""
    pictures = [hashlib.sha256(f"{i.mode} {i.size} ".encode() + i.tobytes()).hexdigest() for i in images]
    asked = json.dumps([VERSION, list(who), text, pictures, yes_no], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()
