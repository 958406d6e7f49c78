"""`halt`: another thread asks a search to end, and gets the best so far."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genscale
from genscale.diffusion.mixtures import Tempered
from genscale.engine.events import Denoised, Scored
from genscale.plugins.registry import found, load
from tests.quick import NUMBERS, third
from tests.zoo import ZOO

PIPE = ZOO["stable_diffusion"].build()


def light(media: Any, prompts: Any) -> torch.Tensor:
    return media.pixels.flatten(1).mean(1)


def call(prompts: int = 1) -> dict[str, Any]:
    own = ZOO["stable_diffusion"].arguments(prompts)
    return own | {"output_type": "np", "generator": torch.Generator().manual_seed(3)}


def test_asked_from_the_start_it_gives_the_pipelines_own_picture() -> None:
    scaled = genscale.scale(PIPE, "best_of_n", light, candidates=40, batch_size=1, halt=lambda: True)
    output = scaled(**call())
    assert output.search.stopped == "interrupted"
    assert [e.candidate.id for e in output.search.entries] == [0]
    assert np.array_equal(output.images, PIPE(**call()).images)


def test_asked_by_another_thread_it_ends_with_the_best_so_far(tmp_path: Path) -> None:
    asked, seen = threading.Event(), []

    def on_event(event: Any) -> None:
        if isinstance(event, Scored):
            seen.append(event.entry)
            if len(seen) == 6:
                threading.Thread(target=asked.set).start()
                assert asked.wait(5)

    scaled = genscale.scale(
        PIPE, "best_of_n", light, candidates=400, wave=2, out=tmp_path, on_event=on_event, halt=asked.is_set
    )
    output = scaled(**call())
    assert output.search.stopped == "interrupted"
    assert len(seen) == 6
    assert output.search.best.total == max(e.total for e in seen)
    assert len(output.images) == 1


def test_every_prompt_has_a_picture_first() -> None:
    batches = []

    def on_event(event: Any) -> None:
        batches.append(event) if isinstance(event, Denoised) else None

    scaled = genscale.scale(
        PIPE, "zero_order", light, rounds=90, batch_size=2, on_event=on_event, halt=lambda: len(batches) > 1
    )
    output = scaled(**call(3))
    assert output.search.stopped == "interrupted"
    assert [len(output.search.ranking(i)) for i in range(3)] == [1, 1, 1]
    assert len(output.images) == 3


def test_a_search_that_ends_by_itself_is_not_stopped() -> None:
    output = genscale.scale(PIPE, "best_of_n", light, candidates=1, halt=lambda: True)(**call())
    assert output.search.stopped is None


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("name", third(found("sampler")))
def test_every_sampler_gives_a_picture(name: str, after: int) -> None:
    needs = getattr(load("sampler", name), "needs", ())
    batches = []
    scaled = genscale.scale(
        PIPE, name, light, batch_size=3, budget="4000nfe", mix=Tempered(1.0) if "mix" in needs else None,
        on_event=batches.append, halt=lambda: len(batches) >= after, **NUMBERS.get(name, {}),
    )  # fmt: skip
    output = scaled(**call())
    assert len(output.images) == 1
    assert output.search.searches[0].spent < 2000
