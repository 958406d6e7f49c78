"""What a search does with each derived pipeline: the runs of tests/test_sweep.py and of the table of pipelines.

A pipeline is run alone, then with one candidate, which must be the same output, and then with three candidates in
batches of four and of one, which must have the same totals.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.media_items import IMAGE, KINDS, MESH, TEXT, VIDEO, Map, Vector
from genscale.pipelines import scale as scale_module
from genscale.pipelines.black_box import Generated, black_box_of
from genscale.pipelines.output_kinds import makes_audio
from genscale.pipelines.pipeline_call import PipelineCall
from tests.derived import Derived, arguments

SEED = 1
TOGETHER, ROW_EACH, OWN_ROWS = "in one call", "a row of the call each", "the call's own rows at a time"
WHOLE = "each by a whole call of the pipeline"
TOLERANCE = 0.02  # of 255, or of the total where that is larger: batches of other sizes round otherwise


def brightness(media: Any, texts: Any) -> list[float]:
    """A verifier: the mean of all pixels, of all frames, of 255; of other numbers the mean size times 255, of texts a
    checksum."""
    if media.kind in (IMAGE, VIDEO):
        frames = ([np.asarray(f, dtype=float) for f in (m if isinstance(m, list) else [m])] for m in media)
        return [float(np.mean(some)) for some in frames]
    if media.kind == TEXT:
        return [float(sum(map(ord, text)) % 256) for text in media]
    return [255 * float(row.float().abs().mean()) for row in media.tensor]


brightness.judges = tuple(k for k in KINDS if k != MESH)  # type: ignore[attr-defined]


def call(pipe: Any, given: dict[str, Any], seeded: bool, seed: int = SEED) -> Any:
    """A call with the same random numbers every time, the process-wide ones among them; seeded: with a generator."""
    torch.manual_seed(seed + 1)  # other numbers than those of the generator
    return pipe(**given | ({"generator": torch.Generator().manual_seed(seed)} if seeded else {}))


def pixels(output: Any) -> np.ndarray:
    """The first thing of a pipeline's output as one array."""
    if getattr(output, "texts", None) is not None:
        return np.asarray(output.texts)
    first = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return _stacked(first)


def _stacked(media: Any) -> np.ndarray:
    if isinstance(media, (list, tuple)):
        return np.stack([_stacked(item) for item in media])
    return np.asarray(media.values if isinstance(media, (Map, Vector)) else media)


@dataclass(frozen=True)
class Found:
    """What came out of a sweep over one class; each text is "" where all was as it must be.

    alone: why the pipeline does not run by itself.
    one: how one candidate was not the pipeline; three: how batches of four and one disagreed.
    refused: the sentence of a refusal, of either search.
    shape: of the output. makes: "sounds", "texts" or "" for all else.
    mode: how its latents were evaluated, one of the four above.
    """

    name: str
    alone: str = ""
    one: str = ""
    three: str = ""
    refused: str = ""
    shape: tuple[int, ...] = ()
    mode: str = ""
    makes: str = ""

    @property
    def searched(self) -> bool:
        return not (self.alone or self.one or self.three or self.refused)


def sweep(found: Derived) -> Found:
    """All runs of one class; exceptions become texts."""
    name = found.cls.__name__
    try:
        pipe, given = found.build(), arguments(found)
        seeded = "generator" in inspect.signature(found.cls.__call__).parameters
        alone = pixels(call(pipe, given, seeded))
    except Exception as error:
        return Found(name, alone=first_line(error))
    makes = "texts" if alone.dtype.kind == "U" else "sounds" if makes_audio(pipe) else ""
    with recorded() as calls:
        try:
            one, three = one_candidate(pipe, given, seeded, alone), _three(pipe, given, seeded, alone)
        except UsageError as error:
            return Found(name, refused=str(error), shape=alone.shape, makes=makes)
    return Found(name, "", one, three, "", alone.shape, mode_of(calls), makes)


@contextmanager
def recorded() -> Iterator[list[PipelineCall | None]]:
    """What was found out about each call that is searched meanwhile; None: the pipeline is called as a whole."""
    made: list[PipelineCall | None] = []
    original = PipelineCall.__init__

    def noted(self: PipelineCall, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        original(self, *args, **kwargs)

    def whole(settings: Any, error: Any) -> Any:
        made.append(None)
        return black_box_of(settings, error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PipelineCall, "__init__", noted)
        patch.setattr(scale_module, "black_box_of", whole)
        yield made


def mode_of(calls: list[PipelineCall | None]) -> str:
    """How several latents were evaluated, of the search in batches."""
    if None in calls:
        return WHOLE
    if any(getattr(made, "own_rows", False) for made in calls):
        return OWN_ROWS
    return ROW_EACH if any(getattr(made, "row_per_latent", False) for made in calls) else TOGETHER


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def one_candidate(pipe: Any, given: dict[str, Any], seeded: bool, alone: np.ndarray) -> str:
    try:
        output = call(genscale.scale(pipe, verifier=brightness, candidates=1), given, seeded)
        same = pixels(output)
    except UsageError:
        raise
    except Exception as error:
        return first_line(error)
    if isinstance(
        output, Generated
    ):  # PIL images, in a list of candidates, whatever the pipeline's output is like
        same, alone = same.squeeze(), alone.squeeze()
        if same.dtype == np.uint8 != alone.dtype:
            alone = (alone.clip(0, 1) * 255).round().astype(np.uint8)
    if same.shape != alone.shape:
        return f"other shape: {same.shape}, not {alone.shape}"
    if same.dtype.kind == "U":
        return "" if np.array_equal(same, alone) else f"other texts: {same} {alone}"
    far = float(np.abs(same.astype(float) - alone.astype(float)).max())
    return "" if np.array_equal(same, alone) else f"not equal: {far:.3g} apart"


def _three(pipe: Any, given: dict[str, Any], seeded: bool, alone: np.ndarray) -> str:
    try:
        four, single = (totals(pipe, given, seeded, batch) for batch in (4, 1))
    except UsageError:
        raise
    except Exception as error:
        return first_line(error)
    apart = float(np.abs(np.subtract(four, single)).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(single).max()) / 255)
    if apart > allowed:
        return f"totals of batches {apart:.3g} apart: {four} {single}"
    if len(set(single)) == 1 and not np.array_equal(alone, pixels(call(pipe, given, seeded, SEED + 2))):
        return f"all candidates are the same: {single}"
    return ""


def totals(pipe: Any, given: dict[str, Any], seeded: bool, batch: int) -> list[float]:
    """The totals of a search of three candidates."""
    scaled = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=batch)
    return [entry.total for entry in call(scaled, given, seeded).search.entries]
