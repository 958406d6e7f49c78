"""A JSON file in a folder that one command writes: one of its entries says what it is. It may come from anybody."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genscale.errors import UsageError
from genscale.safe_json import read_bytes
from genscale.storage import typed_json


@dataclass(frozen=True)
class MarkedJson:
    """How such a file is known and named.

    file: its name in the folder. mark: (entry, the value that it has). content: the TypedDict that it holds. kind: what
    a folder of it is, "calibration of verifiers". unmarked: what is wrong with a file that lacks the mark. command: the
    one that writes it. label: the kind before a path; None: the kind itself.
    """

    file: str
    mark: tuple[str, str]
    content: Any
    kind: str
    unmarked: str
    command: str
    label: str | None = None

    @property
    def hint(self) -> str:
        return f"`genscale {self.command}` writes them"

    def read(self, folder: Path) -> tuple[dict[str, Any], str]:
        """What the file in a folder holds, and the digest of its bytes.

        UsageError: the folder holds no such file, or it was damaged.
        """
        path = folder / self.file
        if not folder.is_dir():
            raise UsageError(f"'{folder}' is not the folder of a {self.kind}: {self.hint}.")
        data = read_bytes(path, f"{self.label or self.kind} '{path}'")
        with self.checking(folder):
            found = typed_json.parse(data)
            entry, value = self.mark
            if not isinstance(found, dict) or found.get(entry) != value:
                raise ValueError(self.unmarked)
            typed_json.check(found, self.content)
        return found, hashlib.blake2b(data, digest_size=16).hexdigest()

    @contextmanager
    def checking(self, folder: Path) -> Iterator[None]:
        """ValueError, KeyError and OverflowError, from parts that do not belong together, become a UsageError."""
        try:
            yield
        except (ValueError, KeyError, OverflowError) as error:
            raise UsageError(f"'{folder / self.file}' is no {self.kind} ({error}): {self.hint}.") from None
