"""Samplers that follow gradients help at few steps by their defaults: on the bundled flow model, against no search."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

import genscale
from genscale.pipelines.loading import folder_of
from genscale.toy.shapes import PROMPTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (folder_of("shapes-flow") / "model_index.json").is_file(), reason="not trained yet"
    ),
]
TEXTS = [PROMPTS[i * len(PROMPTS) // 12].text for i in range(12)]
AS_BEFORE: dict[str, Any] = {
    "gradient": "model", "window": (0.0, 1.0), "rest": "ddim(1)", "reach": float("inf"),
}  # fmt: skip


def scores(sampler: str, nfe: int, **options: Any) -> list[float]:
    """The searched score of the best candidate of each prompt."""
    pipe = genscale.load_pipeline("shapes-flow")
    pipe.set_progress_bar_config(disable=True)
    scaled = genscale.scale(
        pipe, sampler, "shapes_clip", budget=genscale.Budget(nfe=nfe), batch_size=64, **options
    )
    generators = [torch.Generator().manual_seed(i) for i in range(len(TEXTS))]
    found = scaled(TEXTS, generator=generators, num_inference_steps=8, guidance_scale=3.0).search
    return [found.curve(i)[-1]["total"] for i in range(len(TEXTS))]


@pytest.mark.parametrize("sampler", ["das", "tds"])
def test_the_defaults_are_better_than_no_search(sampler: str) -> None:
    base = scores("best_of_n", 16)
    assert statistics.fmean(scores(sampler, 96)) > statistics.fmean(base) + 0.02


def test_scoring_all_along_through_the_model_is_worse_than_no_search() -> None:
    """The broken twin: TDS with the window, the gradient and the kernel of before."""
    assert statistics.fmean(scores("tds", 96, **AS_BEFORE)) < statistics.fmean(scores("best_of_n", 16))
