"""How many latents a search holds, counted as bytes of tensors that are alive."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.live_memory import LiveMemory
from genscale.protocol.batches import Batch, Output
from genscale.results.result import SearchResult
from genscale.toy import analytic

DIM = 1024  # numbers of one latent: so large that scores and recipes do not count beside it


@dataclass(frozen=True)
class Held:
    """What a search held, in latents of float32. peak: at most, the model's own work included. after: at its end."""

    peak: float
    after: float
    result: SearchResult


def held(sampler: Any, free: bool = False, **options: Any) -> Held:
    """Run a sampler on a Gaussian, with `analytic.search`'s options, and count. free: the model takes no work space."""
    gc.collect()
    with patch.object(analytic, "_answer", _nothing if free else analytic._answer), LiveMemory() as memory:
        result = analytic.search(sampler, analytic.gaussian(DIM), analytic.coordinate(0), **options)
        gc.collect()
        after = memory.live
    return Held(memory.peak / 4 / DIM, after / 4 / DIM, result)


def _nothing(model: Any, batch: Batch, grid: Any) -> Output:
    """A velocity of 0 that takes no memory."""
    return Output(torch.zeros(()).expand(batch.x.shape), batch.x, len(batch.prompts))
