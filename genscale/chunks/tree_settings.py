"""The settings of a tree of chunks, as `tree_of_frames` completes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from genscale.chunks.shape import TreeShape
from genscale.chunks.stages import Stages
from genscale.engine.budget import Budget
from genscale.engine.verifier_roles import VerifierSet

Continuation = Callable[[list[Image.Image]], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class TreeSettings:
    """What `tree_of_frames` was given, checked; its docstring tells what each field is. options: of the sampler."""

    pipe: Any
    shape: TreeShape
    stages: Stages
    held_out: VerifierSet
    budget: Budget
    first: Any = None
    continuation: Continuation | None = None
    overlap: int | None = None
    nfe: int = 1
    sampler: Any = "best_of_n"
    batch_size: int = 16
    decode_batch: int | None = None
    out: str | Path | None = None
    on_event: Callable[[Any], None] | None = None
    options: dict[str, Any] = field(default_factory=dict)
