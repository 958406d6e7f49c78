"""`--layout`: the best of an ordinary run where the scorer of a benchmark looks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genscale.bench.layouts import Layout, layout_of
from genscale.bench.prompt_sets import BenchPrompt, read_set
from genscale.bench.trees import write_listing, write_prompt
from genscale.errors import UsageError, quoted
from genscale.runs.request import Request
from genscale.verifiers.object_metadata import metadata_of
from genscale.verifiers.object_prompts import read_prompt

ROLES = {"base": "base", "searched": "best"}
"""Folders, and the role of what is in them."""


@dataclass(frozen=True)
class RunLayout:
    """A layout of a run's images. prompts: those of the run, in their order. images: the best ones of each prompt."""

    layout: Layout
    prompts: Sequence[BenchPrompt]
    images: int

    @staticmethod
    def of(request: Request) -> RunLayout | None:
        """What --layout asks for, NAME or NAME:FILE with the benchmark's own file. UsageError: it cannot be had."""
        if request.layout is None:
            return None
        name, _, file = request.layout.partition(":")
        layout = layout_of(name)
        if request.sound or (layout.kind == "mp4") != request.clips:
            wanted = "videos" if layout.kind == "mp4" else "images"
            raise UsageError(f"--layout {name} is for {wanted}, which this command does not make.")
        if layout.kind == "mp4" and request.formats and "mp4" not in request.formats:
            raise UsageError(f"--layout {name} needs files of the kind mp4: leave --formats out.")
        prompts = read_set(name, Path(file)) if file else _plain(name, request.prompts)
        if tuple(p.prompt for p in prompts) != request.prompts:
            raise UsageError(f"--layout {name}: '{file}' has other prompts than this run.")
        layout.check(prompts, request.images)
        return RunLayout(layout, prompts, request.images)

    def write(self, record: Mapping[str, Any]) -> list[str]:
        """Lay out a finished run; the folders, relative to the run's. record: what run.json holds, with the folder."""
        folder = Path(record["folder"])
        for tree, role in ROLES.items():
            path = folder / self.layout.name / tree
            for prompt, told in zip(self.prompts, record["prompts"], strict=True):
                names = [n for n in told["files"].get(role, ()) if n.endswith(f".{self.layout.kind}")]
                found = {n: folder / name for n, name in enumerate(names)}
                write_prompt(path, self.layout, prompt, found, self._count(role))
            write_listing(path, self.layout, self.prompts, self._count(role))
        return [f"{self.layout.name}/{tree}" for tree in ROLES]

    def _count(self, role: str) -> int:
        return 1 if role == "base" else self.images


def _plain(name: str, prompts: Sequence[str]) -> list[BenchPrompt]:
    """Prompts that no file of the benchmark says more of."""
    found = []
    for n, prompt in enumerate(prompts):
        record = json.dumps({"prompt": prompt}, ensure_ascii=False)
        found.append(BenchPrompt(prompt, n, n, str(n), record=record))
    if name != "geneval":
        return found
    try:
        return [replace(p, record=json.dumps(metadata_of(read_prompt(p.prompt), p.prompt))) for p in found]
    except UsageError as error:
        raise UsageError(
            f"--layout geneval needs to know what the images must show, and {quoted(str(error), 200)} "
            "Give GenEval's file: --prompts evaluation_metadata.jsonl."
        ) from None
