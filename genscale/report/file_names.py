"""Names of a run's files: best, base, 003-best-2, or by a template such as "{prompt:.40}-{seed}"."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from genscale.report.model_names import short_model_name

FIELDS = ("prompt", "index", "seed", "role", "rank", "model", "sampler")
"""What a template may name: the prompt, its number from 0, the seed, best or base, the place from 1, and the names of
model and sampler."""
LONGEST = 180  # bytes of a stem; what is added to it must still fit into 255
_SPEC = re.compile(r"(?:.?[<>^])?0?\d{0,3}(?:\.\d{1,3})?[sd]?")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)  # on Windows
_OURS = ("contact", "preview", "curve", "curves", "tree", "run", "request", "archive", "grid")


def is_template(text: str) -> bool:
    """Whether it is a template that names some of FIELDS and nothing else."""
    try:
        parts = list(string.Formatter().parse(text))
        for _, name, spec, conversion in parts:
            if name is not None and (name not in FIELDS or conversion or not _SPEC.fullmatch(spec or "")):
                return False
        text.format(**_example())
    except (ValueError, KeyError, IndexError, AttributeError):
        return False
    return any(name for _, name, _, _ in parts)


def _example() -> dict[str, Any]:
    return {"prompt": "a", "index": 0, "seed": 0, "role": "best", "rank": 1, "model": "m", "sampler": "s"}


def safe_name(text: str) -> str:
    """A text as the name of a file on every system: without separators, control characters and blanks, at most LONGEST
    bytes, and not empty. Letters of all languages stay."""
    text = unicodedata.normalize("NFC", text)
    text = "".join("-" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in text)
    text = re.sub(r"\s+", "_", text).strip("._- ")
    text = text.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore").rstrip("._- ")
    if not text:
        return "image"
    return f"{text}_" if _RESERVED.fullmatch(text) or text.lower() in _OURS else text


class FileNames:
    """The names of one run's files, without their endings. No two are the same, also where case makes no difference.

    request: as request.json has it; its `name` is the template. Asked in the same order, a run that is done again has
    the same names.
    """

    def __init__(self, request: Mapping[str, Any], prompts: Sequence[str]) -> None:
        self._request, self._prompts = request, prompts
        self._taken: set[str] = set()

    def __call__(self, index: int, role: str, rank: int = 1) -> str:
        """role: "best" or "base". rank: from 1."""
        template = self._request.get("name")
        if template is None:
            stem = f"{index:03d}-" if len(self._prompts) > 1 else ""
            return f"{stem}{role}" + (f"-{rank}" if rank > 1 else "")
        named = {name for _, name, _, _ in string.Formatter().parse(template)}
        stem = safe_name(
            template.format(
                prompt=self._prompts[index],
                index=index,
                seed=self._request.get("seed") or 0,
                role=role,
                rank=rank,
                model=short_model_name(str(self._request.get("model", ""))),
                sampler=self._request.get("sampler", ""),
            )
        )
        stem += "-base" if role == "base" and "role" not in named else ""
        stem += f"-{rank}" if rank > 1 and "rank" not in named else ""
        return self._free(stem)

    def _free(self, stem: str) -> str:
        found, n = stem, 2
        while found.lower() in self._taken:
            found, n = f"{stem}-{n}", n + 1
        self._taken.add(found.lower())
        return found
