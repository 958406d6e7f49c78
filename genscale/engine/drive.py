"""Run an engine with a model that is a plain function, without a pipeline."""

from __future__ import annotations

from collections.abc import Callable

import torch

from genscale.engine.engine import Engine
from genscale.protocol.batches import Batch, Output


def drive(engine: Engine, evaluate: Callable[[Batch], Output]) -> None:
    """Evaluate all batches of an engine until its searches have ended.

    evaluate: the model. With `batch.grad` its output must keep the graph to `batch.x`. Where it raises
    torch.cuda.OutOfMemoryError a smaller batch is tried; of one row the error is passed on.
    """
    loop = engine.run()
    try:
        batch = next(loop)
        while True:
            try:
                output = evaluate(batch)
            except torch.cuda.OutOfMemoryError:
                smaller = engine.halve(len(batch.prompts))
                if smaller is None:
                    raise
                batch = smaller
            else:
                batch = loop.send(output)
    except StopIteration:
        return
