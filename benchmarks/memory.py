"""What a search holds in memory: latents after it, its peak against the plan's, and many candidates against few.

Bytes are of tensors made by operations (live_memory.py, two_places.py), without weights. "device" counts everything;
"host" is a search with hold="host", of which only what lies beside the model is counted. Each number is a count, not a
time, so one run says it.

    python -m benchmarks.memory --few 8 --many 256 > benchmarks/results/memory.jsonl
"""

from __future__ import annotations

import gc
import json
from typing import Any

import torch

import genscale
from benchmarks.common import parser_for
from benchmarks.live_memory import LiveMemory
from benchmarks.tiny_pipelines import pipeline
from benchmarks.two_places import MODEL, TwoPlaces
from genscale.plugins import registry
from genscale.toy import analytic

SIZES = {
    "best_of_n": "candidates",
    "smc": "particles",
    "svdd": "particles",
    "beam": "width",
    "dts_star": "rollouts",
}
MORE = {"svdd": {"children": 2}}


def sampler(name: str, n: int) -> Any:
    """With a population of n."""
    return registry.make("sampler", name, {SIZES[name]: n, **MORE.get(name, {})})


def left_after(name: str, n: int, steps: int, dim: int = 512) -> float:
    """Latents that are alive after a search of n candidates, and the prior's three beside them."""
    with LiveMemory() as memory:
        found = analytic.search(
            sampler(name, n), analytic.gaussian(dim), analytic.coordinate(0), steps=steps, batch_size=64
        )
        gc.collect()
        left = memory.live / 4 / dim
    assert found.entries
    return round(left, 1)


def peak(pipe: Any, call: dict[str, Any], name: str, n: int, hold: str, batch_size: int) -> int:
    """Bytes beside the model at the peak of a search of n candidates."""
    scaled = genscale.scale(
        pipe, sampler(name, n), brightness, batch_size=batch_size, decode_batch=batch_size, hold=hold
    )
    seed = torch.Generator().manual_seed(0)
    if hold == "device":
        with LiveMemory() as every:
            scaled(**call, generator=seed)
        return every.peak
    with TwoPlaces() as places:
        scaled(**call, generator=seed)
    return places.peak[MODEL]


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(v) for v in media.pixels.float().flatten(1).mean(1)]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--samplers", nargs="+", default=list(SIZES))
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--left", type=int, default=64, help="candidates of the searches whose rest is counted"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe, call = pipeline(options.model, options.steps)
    for name in options.samplers:
        about = {k: vars(options)[k] for k in ("model", "few", "many", "steps", "batch_size")}
        row: dict[str, Any] = {"sampler": name, **about, "left": left_after(name, options.left, 20)}
        for hold in ("device", "host"):
            few, many = (
                peak(pipe, call, name, n, hold, options.batch_size) for n in (options.few, options.many)
            )
            row |= {f"{hold}_mb": round(few / 2**20, 2), f"{hold}_ratio": round(many / few, 3)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
