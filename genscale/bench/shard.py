"""A part of a benchmark's prompts, for one of several machines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from genscale.errors import UsageError, quoted

Part = TypeVar("Part")


@dataclass(frozen=True)
class Shard:
    """The k-th of n, from 1: every n-th prompt, so that each shard has some of every category."""

    k: int = 1
    n: int = 1

    @staticmethod
    def parse(text: str | None) -> Shard:
        """`3/8`; None is all. UsageError: it cannot be read."""
        if text is None:
            return Shard()
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip(), re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(
                f"--shard {quoted(text)} cannot be read: write K/N with K from 1 to N, such as 3/8."
            )
        return Shard(int(match[1]), int(match[2]))

    def of(self, parts: Sequence[Part]) -> list[Part]:
        return list(parts[self.k - 1 :: self.n])

    @property
    def folder(self) -> str:
        return f"{self.k}-of-{self.n}"
