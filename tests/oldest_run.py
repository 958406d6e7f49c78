"""A core of the tests in one process, for an environment with other versions of diffusers and transformers.

    python -m tests.oldest_run

prints one line of JSON: the versions, and for each pipeline what was not as it must be ("" where all was). Each is
searched with one candidate, which must be the pipeline's output bit for bit, by best_of_n in batches of three and of
one, which must agree, and in a folder, where a second call must take over all that the first found.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import genscale
from genscale.pipelines.loading import EMBEDDED
from tests.sweep_run import TOLERANCE, brightness, first_line
from tests.zoo import ZOO


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def fault(pipe: Any, given: dict[str, Any], verifier: Any) -> str:
    """What is wrong with the searches of one pipeline call."""

    def call(what: Any) -> Any:
        return what(**given, generator=generator())

    own = np.asarray(call(pipe)[0])
    if not np.array_equal(own, np.asarray(call(genscale.scale(pipe, candidates=1))[0])):
        return "one candidate is not the pipeline"
    search = {"verifier": verifier, "candidates": 3}
    three, one = (
        [entry.total for entry in call(genscale.scale(pipe, batch_size=n, **search)).search.entries]
        for n in (3, 1)
    )
    if np.abs(np.subtract(three, one)).max() > TOLERANCE:
        return f"batches of three and of one differ: {three} {one}"
    if max(three) - min(three) < TOLERANCE:
        return f"all candidates are the same: {three}"
    with tempfile.TemporaryDirectory() as folder:
        kept = {**search, "out": Path(folder) / "run"}
        first, again = call(genscale.scale(pipe, **kept)), call(genscale.scale(pipe, **kept))
    if not np.array_equal(np.asarray(first[0]), np.asarray(again[0])):
        return "the resumed search has another winner"
    if [e.total for e in first.search.entries] != [e.total for e in again.search.entries]:
        return "the resumed search has other scores"
    return "" if again.search.ledger.evaluations == 0 else "the resumed search evaluated again"


def pipelines() -> dict[str, Callable[[], tuple[Any, dict[str, Any], Any]]]:
    """How to build each pipeline, its call, and its verifier, by name."""

    def of_zoo(name: str) -> tuple[Any, dict[str, Any], Any]:
        return ZOO[name].build(), ZOO[name].arguments(1) | {"output_type": "np"}, brightness

    def bundled(name: str) -> tuple[Any, dict[str, Any], Any]:
        made, size = EMBEDDED[name], EMBEDDED[name].size
        given = {"prompt": "a red circle", "num_inference_steps": 4, "output_type": "np"}
        given |= {"height": size, "width": size}
        if made.frames is not None:
            given |= {"num_frames": made.frames, "max_sequence_length": made.tokens}
        return genscale.load_pipeline(name), given, made.verifier

    made: dict[str, Any] = {name: lambda name=name: bundled(name) for name in EMBEDDED}
    return made | {name: lambda name=name: of_zoo(name) for name in ZOO}


def exists(error: Exception) -> bool:
    """Whether a class that could not be built is one of these versions at all."""
    return not (isinstance(error, AttributeError) and "has no attribute" in str(error))


def main() -> None:
    import diffusers
    import transformers

    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    found: dict[str, str] = {}
    for name, build in pipelines().items():
        try:
            pipe, given, verifier = build()
        except Exception as error:
            if exists(error):
                found[name] = f"not built: {first_line(error)}"
            continue
        try:
            found[name] = fault(pipe, given, verifier)
        except Exception as error:
            found[name] = first_line(error)
    print(
        json.dumps(
            {"diffusers": diffusers.__version__, "transformers": transformers.__version__, "found": found}
        )
    )


if __name__ == "__main__":
    main()
